
# What the test does with the setup above: it stands in docs/clients.md.
from requests import HTTPError

print("read:", jira.issue("ACME-7")["fields"]["summary"])

created = jira.create_issue(
    {"project": {"key": "ACME"}, "summary": "Größe ✓", "issuetype": {"name": "Bug"}}
)
print("created:", created["key"])

print("commented:", jira.issue_add_comment("ACME-8", "seen")["id"])

listed = jira.enhanced_jql_get_list_of_tickets("project = ACME")
print("listed:", *[issue["key"] for issue in listed])

issues = bitbucket.repositories.get("acme", "hello").issues
print("bitbucket:", *[issue.get_data("id") for issue in issues.each()])
print("bitbucket read:", issues.get(7).get_data("title"))
filed = issues.create("Größe ✓", "a", "bug", "major")
print("bitbucket created:", filed.get_data("id"))

try:
    jira.get("rest/api/2/issue%2F7")
except HTTPError as error:
    print("refused:", error.response.status_code, error.response.headers["X-WebRiskOps-Reason"])
