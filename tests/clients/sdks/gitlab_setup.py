
# What the test does with the setup above: it stands in docs/clients.md.
project = gl.projects.get("group/sub/hello")
print("read:", project.id, project.path_with_namespace)

issue = project.issues.get(7)
print("read:", issue.iid, issue.title)

created = project.issues.create({"title": "Größe ✓", "description": "a\n\nb"})
print("created:", created.iid, created.title)

note = created.notes.create({"body": "seen"})
print("commented:", note.id, note.body)

listed = [issue.iid for issue in project.issues.list(iterator=True, per_page=2)]
print("listed:", *listed)

by_path = gl.projects.get("group/sub/hello", lazy=True)
text = by_path.files.raw("docs/read me.md", ref="main")
print("file:", text.decode())

try:
    gl.http_get("/a//b")
except gitlab.GitlabHttpError as error:
    print("refused:", error.response_code, error.response_body.decode())
