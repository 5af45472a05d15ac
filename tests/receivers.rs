//! The receivers of `docs/receivers.md`, each as it is printed there, against deliveries that the
//! `sign` command made: genuine ones and those that are not.
//!
//! `tests/receivers/install` installs the runtimes. Servers run as processes of their own on
//! loopback; the platforms' code runs under Node with `tests/receivers/platforms.cjs` around it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may panic, opens its own sockets and reads the real clock"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

const SECRET: &str = "a-receivers-secret-5f3e9a";
const OTHER: &str = "another-secret-of-theirs-77";
const BODY: &str = r#"{"event":"ticket.created","title":"Größe ✓","n":1.0}"#;

/// How long a receiver may take to start, or to answer: compilers are among them.
const PATIENCE: Duration = Duration::from_mins(2);

// === deliveries

#[derive(Clone, Debug)]
struct Delivery {
    fields: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Delivery {
    fn set(mut self, name: &str, value: &str) -> Self {
        assert!(self.fields.insert(name.to_owned(), value.to_owned()).is_some(), "{name}");
        self
    }

    fn edit(self, name: &str, edit: impl Fn(&str) -> String) -> Self {
        let value = edit(&self.fields[name]);
        self.set(name, &value)
    }

    fn without(mut self, name: &str) -> Self {
        assert!(self.fields.remove(name).is_some(), "{name}");
        self
    }

    fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

/// Runs the program with a body on standard input.
fn gateway(arguments: &[&str], body: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    match stdin.write_all(body) {
        // It may refuse its arguments before it reads anything.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.unwrap(),
    }
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// Files of secrets.
struct Secrets(TempDir);

impl Secrets {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, secret: &str) -> String {
        let path = self.0.path().join(secret);
        fs::write(&path, format!("{secret}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Signs a body; `more` are further arguments.
    fn sign(&self, secrets: &[&str], body: &[u8], more: &[&str]) -> Delivery {
        let files: Vec<_> = secrets.iter().map(|secret| self.file(secret)).collect();
        let mut arguments = vec!["sign"];
        for file in &files {
            arguments.extend(["--secret-file", file]);
        }
        arguments.extend(more);
        let output = gateway(&arguments, body);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let fields = text.lines().map(|line| line.split_once(": ").unwrap());
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Delivery { fields, body: body.to_vec() }
    }
}

const TIMESTAMP: &str = "X-WebRiskOps-Timestamp";
const NONCE: &str = "X-WebRiskOps-Nonce";
const SIGNATURE: &str = "X-WebRiskOps-Signature";

/// What every receiver is shown, and whether one that has [`SECRET`] is to accept it.
fn cases() -> Vec<(&'static str, Delivery, bool)> {
    let secrets = Secrets::new();
    let body = BODY.as_bytes();
    let good = || secrets.sign(&[SECRET], body, &[]);
    let at = |offset: i64| {
        let timestamp = (now() + offset).to_string();
        secrets.sign(&[SECRET], body, &["--timestamp", &timestamp])
    };
    let flip = |index: usize| {
        let mut flipped = body.to_vec();
        flipped[index] ^= 1;
        flipped
    };
    let moved = secrets.sign(&[SECRET], format!("x.{BODY}").as_bytes(), &["--nonce", "moved"]);
    let cut = |end: usize| good().edit(SIGNATURE, |text| text[..end].to_owned());
    vec![
        ("genuine", good(), true),
        ("genuine, four minutes old", at(-240), true),
        ("genuine, four minutes ahead", at(240), true),
        ("rotated, receiver has the new secret", secrets.sign(&[SECRET, OTHER], body, &[]), true),
        ("rotated, receiver has the old secret", secrets.sign(&[OTHER, SECRET], body, &[]), true),
        ("rotated, without a space", good().edit(SIGNATURE, |text| format!("v9=x,{text}")), true),
        ("another secret", secrets.sign(&[OTHER], body, &[]), false),
        (
            "rotated, neither secret",
            secrets.sign(&[OTHER, "a-third-secret-0000"], body, &[]),
            false,
        ),
        ("first byte flipped", good().body(&flip(0)), false),
        ("last byte flipped", good().body(&flip(BODY.len() - 1)), false),
        ("body printed again", good().body(BODY.replace("1.0", "1").as_bytes()), false),
        ("body cut short", good().body(&body[..BODY.len() - 1]), false),
        ("old", at(-400), false),
        ("of the future", at(400), false),
        ("timestamp changed", good().set(TIMESTAMP, &(now() - 7).to_string()), false),
        ("timestamp missing", good().without(TIMESTAMP), false),
        ("timestamp no number", good().set(TIMESTAMP, "now"), false),
        ("nonce changed", good().edit(NONCE, |nonce| format!("{nonce}0")), false),
        ("nonce missing", good().without(NONCE), false),
        ("dot moved", moved.set(NONCE, "moved.x").body(body), false),
        ("signature missing", good().without(SIGNATURE), false),
        ("signature empty", good().set(SIGNATURE, ""), false),
        ("signature of the scheme alone", cut("sha256=".len()), false),
        ("signature truncated to half", cut("sha256=".len() + 32), false),
        ("signature truncated by one", cut("sha256=".len() + 63), false),
        ("signature extended", good().edit(SIGNATURE, |text| format!("{text}0")), false),
        (
            "signature without its scheme",
            good().edit(SIGNATURE, |text| text[7..].to_owned()),
            false,
        ),
    ]
}

// === receivers

/// The blocks of code that the document names, by name.
fn blocks() -> BTreeMap<String, String> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/receivers.md");
    let text = fs::read_to_string(document).unwrap();
    let mut blocks = BTreeMap::new();
    for block in text.split("\n```").skip(1).step_by(2) {
        let (info, code) = block.split_once('\n').unwrap();
        if let Some((_, name)) = info.split_once(' ') {
            assert!(blocks.insert(name.to_owned(), format!("{code}\n")).is_none(), "{name} twice");
        }
    }
    blocks
}

/// A receiver of the document in a folder of its own.
struct Printed {
    dir: TempDir,
    file: PathBuf,
}

impl Printed {
    fn new(name: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join(name);
        let code = blocks().remove(name).unwrap_or_else(|| panic!("the document has no {name}"));
        fs::write(&file, code).unwrap();
        Self { dir, file }
    }
}

/// Starts a program, or fails with what is to be installed.
fn spawn(command: &mut Command, package: &str) -> Child {
    command.spawn().unwrap_or_else(|error| {
        let program = command.get_program().display();
        panic!(
            "{program} does not start ({error}): run tests/receivers/install, or install {package}"
        )
    })
}

/// Runs a program to its end.
fn run(command: &mut Command, package: &str) {
    let output = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()), package)
        .wait_with_output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A receiver that listens.
struct Server {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts a server, which finds its port in `PORT`; in an argument `{port}` stands for it.
    fn start(printed: &Printed, program: &str, arguments: &[&str], package: &str) -> Self {
        // Bound and not listening, it keeps the port from everybody who does not ask for it.
        let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        reserved.set_reuse_address(true).unwrap();
        reserved.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = reserved.local_addr().unwrap().as_socket().unwrap();
        let port = address.port().to_string();
        let log = printed.dir.path().join("log");
        let file = fs::File::create(&log).unwrap();
        let mut command = Command::new(program);
        command
            .args(arguments.iter().map(|argument| argument.replace("{port}", &port)))
            .current_dir(printed.dir.path())
            .env("SIGNING_SECRET", SECRET)
            .env("PORT", &port)
            .env("TMPDIR", printed.dir.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let mut server = Self { child: spawn(&mut command, package), address, log };
        server.wait();
        server
    }

    /// Until it takes connections.
    fn wait(&mut self) {
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait().unwrap();
            let late = began.elapsed() > PATIENCE;
            assert!(ended.is_none() && !late, "it does not listen: {ended:?} {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Delivers; gives status and body of the answer.
    fn deliver(&self, delivery: &Delivery) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!(
            "POST /hook HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n",
            self.address,
            delivery.body.len()
        )
        .into_bytes();
        for (name, value) in &delivery.fields {
            request.extend(format!("{name}: {value}\r\n").bytes());
        }
        request.extend(b"\r\n");
        request.extend(&delivery.body);
        stream.write_all(&request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{answer}: {}", self.said())), body.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

/// Shows a server every case, bodies that are not text, and replays.
fn assert_judges(server: &Server) {
    let cases = cases();
    assert!(cases.len() > 25);
    for (name, delivery, accepts) in &cases {
        let (status, body) = server.deliver(delivery);
        let expected =
            if *accepts { (200, "accepted") } else { (401, "WEBHOOK_SIGNATURE_INVALID") };
        assert!(status == expected.0 && body.contains(expected.1), "{name}: {status} {body}");
    }
    let secrets = Secrets::new();
    let long = vec![b'x'; 1024 * 1024];
    for body in [&b""[..], b"\xff\xfe\x00\r\n", b"a=1&b=%20", &long] {
        let delivery = secrets.sign(&[SECRET], body, &[]);
        assert_eq!(server.deliver(&delivery).0, 200, "{} bytes", body.len());
        let replayed = server.deliver(&delivery);
        assert!(replayed.0 == 200 && replayed.1.contains("duplicate"), "{replayed:?}");
    }
    let (name, genuine, _) = &cases[0];
    assert!(server.deliver(genuine).1.contains("duplicate"), "{name}");
}

#[test]
fn every_program_of_the_document_is_run_here() {
    let names: Vec<_> = blocks().into_keys().collect();
    let run_here = [
        "Receiver.java",
        "make.txt",
        "n8n.js",
        "receiver.cjs",
        "receiver.go",
        "receiver.php",
        "receiver.py",
        "receiver.ru",
        "zapier.js",
    ];
    assert_eq!(names, run_here);
}

#[test]
fn the_node_receiver_accepts_what_is_genuine_and_nothing_else() {
    let printed = Printed::new("receiver.cjs");
    assert_judges(&Server::start(&printed, "node", &["receiver.cjs"], "nodejs"));
}

#[test]
fn the_python_receiver_accepts_what_is_genuine_and_nothing_else() {
    let printed = Printed::new("receiver.py");
    assert_judges(&Server::start(&printed, "python3", &["receiver.py"], "python3"));
}

#[test]
fn the_php_receiver_accepts_what_is_genuine_and_nothing_else() {
    let printed = Printed::new("receiver.php");
    let arguments = ["-S", "127.0.0.1:{port}", "receiver.php"];
    assert_judges(&Server::start(&printed, "php", &arguments, "php-cli"));
}

#[test]
fn the_ruby_receiver_accepts_what_is_genuine_and_nothing_else() {
    let printed = Printed::new("receiver.ru");
    let arguments = ["-q", "-s", "webrick", "-o", "127.0.0.1", "-p", "{port}", "receiver.ru"];
    assert_judges(&Server::start(&printed, "rackup", &arguments, "ruby and ruby-rack"));
}

#[test]
fn the_go_receiver_accepts_what_is_genuine_and_nothing_else() {
    let printed = Printed::new("receiver.go");
    let mut build = Command::new("go");
    build
        .args(["build", "-o", "receiver", "receiver.go"])
        .current_dir(printed.dir.path())
        .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-build"))
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off");
    run(&mut build, "golang-go");
    let program = printed.dir.path().join("receiver");
    assert_judges(&Server::start(&printed, program.to_str().unwrap(), &[], "golang-go"));
}

#[test]
fn the_java_receiver_accepts_what_is_genuine_and_nothing_else() {
    let printed = Printed::new("Receiver.java");
    let package = "default-jdk-headless";
    assert_judges(&Server::start(&printed, "java", &["Receiver.java"], package));
}

/// Shows the code of a platform every case.
fn assert_platform_judges(kind: &str, name: &str) {
    let printed = Printed::new(name);
    let cases = cases();
    let deliveries: Vec<_> = cases
        .iter()
        .map(|(_, delivery, _)| {
            let fields = delivery.fields.iter();
            let headers: serde_json::Map<_, _> = fields
                .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str().into()))
                .collect();
            serde_json::json!({ "headers": headers, "body": STANDARD.encode(&delivery.body) })
        })
        .collect();
    let input = printed.dir.path().join("deliveries");
    fs::write(&input, serde_json::to_vec(&deliveries).unwrap()).unwrap();
    let mut command = Command::new("node");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/receivers/platforms.cjs"))
        .args([kind, printed.file.to_str().unwrap(), SECRET])
        .stdin(fs::File::open(&input).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = spawn(&mut command, "nodejs").wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), cases.len(), "{output:?}");
    for ((name, delivery, accepts), line) in cases.iter().zip(lines) {
        let expected = match delivery.fields.get(NONCE) {
            Some(nonce) if *accepts => format!("accepted {nonce}"),
            Some(_) | None => "refused WEBHOOK_SIGNATURE_INVALID".to_owned(),
        };
        assert_eq!(line, expected, "{name}");
    }
}

#[test]
fn the_n8n_code_node_accepts_what_is_genuine_and_nothing_else() {
    assert_platform_judges("n8n", "n8n.js");
}

#[test]
fn the_zapier_code_step_accepts_what_is_genuine_and_nothing_else() {
    assert_platform_judges("zapier", "zapier.js");
}

#[test]
fn the_make_filter_accepts_what_is_genuine_and_nothing_else() {
    assert_platform_judges("make", "make.txt");
}

// === the commands

/// Verifies with the command; gives exit code, standard output and standard error.
fn verify(delivery: &Delivery, arguments: &[&str]) -> (i32, String, String) {
    let fields: Vec<_> =
        delivery.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut all = vec!["verify"];
    for field in &fields {
        all.extend(["--header", field]);
    }
    all.extend(arguments);
    let output = gateway(&all, &delivery.body);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_verify_command_judges_as_receivers_do() {
    let secrets = Secrets::new();
    let file = secrets.file(SECRET);
    for (name, delivery, accepts) in cases() {
        let (code, said, error) = verify(&delivery, &["--secret-file", &file]);
        assert_eq!(code, i32::from(!accepts), "{name}: {error}");
        assert_eq!(said.starts_with("verified\n"), accepts, "{name}: {said}");
        let names_nonce = delivery.fields.get(NONCE).is_some_and(|nonce| said.contains(nonce));
        assert_eq!(names_nonce, accepts, "{name}: {said}");
        assert_eq!(error.contains("not verified: "), !accepts, "{name}: {error}");
        assert!(!error.contains(SECRET) && !said.contains(SECRET), "{name}");
    }
    let old = secrets.sign(&[SECRET], b"", &["--timestamp", "1700000000"]);
    assert_eq!(verify(&old, &["--secret-file", &file, "--tolerance", "36500d"]).0, 0);
    let (code, _, error) = verify(&old, &["--secret-file", &file]);
    assert!(code == 1 && error.contains("timestamp_too_old"), "{error}");
    let rotated = secrets.file(OTHER);
    let both = ["--secret-file", &rotated, "--secret-file", &file];
    assert_eq!(verify(&secrets.sign(&[SECRET], b"", &[]), &both).0, 0);
}

#[test]
fn a_standard_webhook_is_signed_and_verified_by_the_commands() {
    let secrets = Secrets::new();
    let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let body = br#"{"email":"test@example.com","username":"test_user"}"#;
    let more = [
        "--format",
        "standard-webhooks",
        "--id",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        "--timestamp",
        "1649367553",
    ];
    let delivery = secrets.sign(&[secret], body, &more);
    let signature = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
    assert_eq!(delivery.fields["webhook-signature"], signature);
    assert_eq!(delivery.fields["webhook-id"], "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk");
    let file = secrets.file(secret);
    assert_eq!(verify(&delivery, &["--secret-file", &file, "--tolerance", "36500d"]).0, 0);
}

#[test]
fn signing_prints_json_that_says_the_same() {
    let secrets = Secrets::new();
    let more = ["--timestamp", "1790000000", "--nonce", "n-1", "--id", "k-1"];
    let lines = secrets.sign(&[SECRET], BODY.as_bytes(), &more);
    let file = secrets.file(SECRET);
    let arguments = [&["sign", "--json", "--secret-file", &file][..], &more].concat();
    let output = gateway(&arguments, BODY.as_bytes());
    let json: BTreeMap<String, String> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, lines.fields);
    assert_eq!(json["X-WebRiskOps-Event"], "ticket.created");
    assert_eq!((json[NONCE].as_str(), json[TIMESTAMP].as_str()), ("n-1", "1790000000"));
}

#[test]
fn wrong_usage_is_told_from_a_refusal() {
    let secrets = Secrets::new();
    let good = secrets.file(SECRET);
    let short = secrets.file("short");
    let sign = |arguments: &[&str]| gateway(&[&["sign"], arguments].concat(), b"{}");
    let file = ["--secret-file", good.as_str()];
    let missing = ["--secret-file", "/nonexistent/secret"];
    let rows: [(&[&str], &str); 8] = [
        (&[], "--secret-file"),
        (&["--secret-file", &short], &short),
        (&missing, "/nonexistent/secret"),
        (&[file, ["--nonce", "a.b"]].concat(), "X-WebRiskOps-Nonce"),
        (&[file, ["--timestamp", "soon"]].concat(), "X-WebRiskOps-Timestamp"),
        (&[file, ["--timestamp", "007"]].concat(), "X-WebRiskOps-Timestamp"),
        (&[&file[..], &["/nonexistent/body"]].concat(), "/nonexistent/body"),
        (&[&file[..], &["--format", "standard-webhooks", "--id", "a.b"]].concat(), "dots"),
    ];
    for (arguments, mentions) in rows {
        let output = sign(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(error.contains(mentions) && !error.contains(SECRET), "{arguments:?}: {error}");
    }
    let delivery = secrets.sign(&[SECRET], b"{}", &[]);
    for wrong in [
        &["--secret-file", short.as_str()][..],
        &missing,
        &[],
        &[&file[..], &["--header", "x"]].concat(),
    ] {
        assert_eq!(verify(&delivery, wrong).0, 2, "{wrong:?}");
    }
}
