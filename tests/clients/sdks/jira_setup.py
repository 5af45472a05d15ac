
# What the test does with the setup above: it stands in docs/clients.md.
from jira import JIRAError

issue = jira.issue("ACME-7")
print("read:", issue.key, issue.fields.summary)
print("attached:", issue.fields.attachment[0].get().decode())

created = jira.create_issue(
    project="ACME", summary="Größe ✓", description="a\n\nb", issuetype={"name": "Bug"}
)
print("created:", created.key)

comment = jira.add_comment(created, "seen")
print("commented:", comment.id, comment.body)

created.update(summary="changed")
print("changed:", created.key)

listed = jira.search_issues("project = ACME ORDER BY key", maxResults=False)
print("listed:", *[issue.key for issue in listed])

try:
    jira.issue("ACME-7%2F8")
except JIRAError as error:
    print("refused:", error.status_code, error.response.headers["X-WebRiskOps-Reason"])
