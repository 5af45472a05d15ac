
// What the test does with the setup above: it stands in docs/clients.md.
const repository = { owner: "octo", repo: "hello" };

const issue = await octokit.rest.issues.get({ ...repository, issue_number: 7 });
console.log("read:", issue.data.number, issue.data.title);

const created = await octokit.rest.issues.create({ ...repository, title: "Größe ✓", body: "a\n\nb" });
console.log("created:", created.data.number, created.data.title);

const comment = await octokit.rest.issues.createComment({ ...repository, issue_number: 8, body: "seen" });
console.log("commented:", comment.data.id, comment.data.body);

const all = await octokit.paginate(octokit.rest.issues.listForRepo, { ...repository, per_page: 2 });
console.log("listed:", all.map((one) => one.number).join());

try {
  await octokit.request("GET /a%2Fb");
} catch (error) {
  console.log("refused:", error.status, error.response.headers["x-webriskops-reason"]);
}
