//! Request smuggling, judged by those who would be fooled: nginx and Node's HTTP server stand behind
//! the gateway, each with a parser of its own, and write down every message that they see.
//!
//! BYPASSES, section F. `tests/run` unpacks nginx; Node runs with its lenient parser.

use crate::{
    clients::installed,
    support::{
        eventually,
        gateway::{Gateway, signal},
        http::Conn,
        lab::{self, Lab, PUBLIC},
        tls::{Ca, Identity},
        within,
    },
};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A request that nobody asked for: hidden in a body, or behind what some parsers take for its end.
const HIDDEN: &str = "GET /targets/x/hidden HTTP/1.1\r\nHost: hidden\r\n\r\n";

/// Heads that are refused before anything is dialled. Each is sent as a POST, with these fields and
/// what follows them; `HIDDEN` comes last.
const HEADS: &[(&str, &str)] = &[
    ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n"),
    ("CL.TE in other cases", "content-length: 6\r\ntRANSFER-eNCODING: CHUNKED\r\n\r\n0\r\n\r\n"),
    ("TE.TE", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    (
        "TE.TE, both chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a list of codings", "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked, and not last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("an empty coding", "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"),
    ("no coding", "Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    ("a coding that does not exist", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("a coding in quotes", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("a coding with a parameter", "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ("a vertical tab behind it", "Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n"),
    ("a form feed before it", "Transfer-Encoding:\x0cchunked\r\n\r\n0\r\n\r\n"),
    ("a NUL behind it", "Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n"),
    ("a bare CR behind it", "Transfer-Encoding: chunked\r\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    (
        "a tab before the colon",
        "Content-Length: 5\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a folded coding", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("a folded length", "Content-Length:\r\n 5\r\n\r\n12345"),
    ("a fold with a tab", "X-Any: a\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a space before the first field", " Content-Length: 5\r\n\r\n12345"),
    ("a name behind a bare LF", "X-Any: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a name behind a bare CR", "X-Any: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("an end of bare LFs", "Content-Length: 0\n\n"),
    ("an end with one bare LF", "Content-Length: 5\r\n\n12345"),
    ("two lengths", "Content-Length: 0\r\nContent-Length: 44\r\n\r\n"),
    ("two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345"),
    ("a list of lengths", "Content-Length: 5, 5\r\n\r\n12345"),
    ("a length with a sign", "Content-Length: +5\r\n\r\n12345"),
    ("a negative length", "Content-Length: -5\r\n\r\n12345"),
    ("a length with a leading zero", "Content-Length: 010\r\n\r\n12345678"),
    ("a hexadecimal length", "Content-Length: 0x5\r\n\r\n12345"),
    ("a length with a digit apart", "Content-Length: 0 5\r\n\r\n12345"),
    ("a length of other digits", "Content-Length: ５\r\n\r\n12345"),
    ("an empty length", "Content-Length:\r\n\r\n12345"),
    ("a length beyond 64 bits", "Content-Length: 18446744073709551621\r\n\r\n12345"),
    ("a lookalike of the length", "Content_Length: 5\r\n\r\n"),
    ("a lookalike of the coding", "Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a field without a colon", "Content-Length\r\n\r\n12345"),
    ("a field without a name", ": 5\r\n\r\n12345"),
    ("a second host", "Host: hidden\r\nContent-Length: 0\r\n\r\n"),
];

/// Chunked bodies whose end somebody could see elsewhere. The head may have left when they are
/// found out; the message never ends. `HIDDEN` comes last.
const BODIES: &[(&str, &str)] = &[
    ("a size line with a bare LF", "5\nhello\r\n0\r\n\r\n"),
    ("a size line with a bare CR", "5\rhello\r\n0\r\n\r\n"),
    ("a chunk that ends with a bare LF", "5\r\nhello\n0\r\n\r\n"),
    ("a chunk that ends with two other bytes", "5\r\nhelloXX0\r\n\r\n"),
    ("a chunk longer than its size", "4\r\nhello\r\n0\r\n\r\n"),
    ("a bare LF within an extension", "5;x\nhello\r\n0\r\n\r\n"),
    ("a bare LF within a quoted extension", "5;x=\"\n\"\r\nhello\r\n0\r\n\r\n"),
    ("a bare CR within an extension", "5;x\ry\r\nhello\r\n0\r\n\r\n"),
    ("an extension without an end of its quote", "5;x=\"\r\nhello\r\n0\r\n\r\n"),
    ("a NUL within an extension", "5;\0\r\nhello\r\n0\r\n\r\n"),
    ("a size with a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a size with a space before it", " 5\r\nhello\r\n0\r\n\r\n"),
    ("a size with a space behind it", "5 \r\nhello\r\n0\r\n\r\n"),
    ("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("a size that wraps 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a size that is none", "g\r\nhello\r\n0\r\n\r\n"),
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("a last chunk with bare LFs", "5\r\nhello\r\n0\n\n"),
    ("a last line with a bare LF", "5\r\nhello\r\n0\r\n\n"),
    ("a length among the trailers", "5\r\nhello\r\n0\r\nContent-Length: 44\r\n\r\n"),
    ("a coding among the trailers", "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("a host among the trailers", "5\r\nhello\r\n0\r\nHost: hidden\r\n\r\n"),
    ("a folded trailer", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n 2\r\n\r\n"),
    ("a trailer behind a bare LF", "5\r\nhello\r\n0\r\nX-Sum: 1\nX-Any: 2\r\n\r\n"),
];

/// What is well-formed, and tempting: what is sent (`@` stands for the way to the target, `#` for
/// `HIDDEN`), the answers that come back, and the messages that the origin sees.
#[rustfmt::skip] // a row each
const WHOLE: &[(&str, &str, &[u16], &[&str])] = &[
    ("a body that looks like a request",
     "POST @/a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 48\r\n\r\n#",
     &[200], &["POST /a 48"]),
    ("the same of a GET",
     "GET @/b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 48\r\n\r\n#",
     &[200], &["GET /b 48"]),
    ("the same in chunks",
     "POST @/c HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n30\r\n#\r\n0\r\n\r\n",
     &[200], &["POST /c 48"]),
    ("the same of a GET in chunks, in other cases",
     "GET @/d HTTP/1.1\r\nHost: 127.0.0.1\r\ntransfer-ENCODING: CHUNKED\r\n\r\n30\r\n#\r\n0\r\n\r\n",
     &[200], &["GET /d 48"]),
    ("the same with Expect",
     "POST @/e HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 48\r\n\r\n#",
     &[200], &["POST /e 48"]),
    ("the same with an unknown expectation",
     "POST @/f HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: y 100-continue\r\nContent-Length: 48\r\n\r\n#",
     &[200], &["POST /f 48"]),
    ("a length that Connection names",
     "POST @/g HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Content-Length\r\nContent-Length: 48\r\n\r\n#",
     &[200], &["POST /g 48"]),
    ("a coding and a host that Connection names",
     "POST @/h HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Transfer-Encoding, Host\r\n\
      Transfer-Encoding: chunked\r\n\r\n30\r\n#\r\n0\r\n\r\n",
     &[200], &["POST /h 48"]),
    ("chunk extensions, and sizes with leading zeros",
     "POST @/i HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n\
      0005;a=\"b;\\\"c\";d\r\nhello\r\n0;e\r\nX-Sum: 1\r\n\r\n",
     &[200], &["POST /i 5"]),
    ("HTTP/1.0 with a body",
     "POST @/j HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
     &[200], &["POST /j 5"]),
    ("HTTP/2 in clear, offered with a body",
     "POST @/k HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
      HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 48\r\n\r\n#",
     &[200], &["POST /k 48"]),
    ("two in one piece",
     "POST @/l HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nhelloGET @/m HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
     &[200, 200], &["POST /l 5", "GET /m 0"]),
    ("two in one piece, and the second is refused",
     "POST @/n HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
      GET /hidden HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
     &[200, 400], &["POST /n 0"]),
    ("two in one piece, and the second is ambiguous",
     "POST @/o HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n\
      POST @/hidden HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n#",
     &[200, 400], &["POST /o 0"]),
    ("more than the length says, which is no request",
     "POST @/p HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\nhello /hidden\r\n\r\n#",
     &[200, 400], &["POST /p 1"]),
    ("a body that ends early",
     "POST @/q HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 480\r\n\r\n#",
     &[400], &[]),
    ("a body in chunks that ends early",
     "POST @/r HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n30\r\n#\r\n",
     &[400], &[]),
];

type Fields = &'static [(&'static str, &'static str)];

/// HTTP/2 that must not become two messages of HTTP/1: what is set instead of or beside an ordinary
/// POST, and the data; it is refused, and never whole at the origin.
#[rustfmt::skip] // a row each
const DOWNGRADES: &[(&str, Fields, Option<&str>)] = &[
    ("a length shorter than the data", &[("content-length", "3")], Some(HIDDEN)),
    ("a length longer than the data", &[("content-length", "490")], Some(HIDDEN)),
    ("a length without data", &[("content-length", "5")], None),
    ("two lengths", &[("content-length", "0"), ("content-length", "48")], Some(HIDDEN)),
    ("two equal lengths", &[("content-length", "48"), ("content-length", "48")], Some(HIDDEN)),
    ("a list of lengths", &[("content-length", "0, 48")], Some(HIDDEN)),
    ("a length with a leading zero", &[("content-length", "048")], Some(HIDDEN)),
    ("a length with a space behind it", &[("content-length", "48 ")], Some(HIDDEN)),
    ("a length with a tab before it", &[("content-length", "\t48")], Some(HIDDEN)),
    ("a lookalike of the length", &[("content_length", "48")], Some(HIDDEN)),
    ("a length with a sign", &[("content-length", "+48")], Some(HIDDEN)),
    ("a coding", &[("transfer-encoding", "chunked")], Some("0\r\n\r\n")),
    ("a coding and a length", &[("transfer-encoding", "chunked"), ("content-length", "5")], Some("0\r\n\r\n")),
    ("a lookalike of the coding", &[("transfer_encoding", "chunked")], Some("0\r\n\r\n")),
    ("a field of one hop", &[("connection", "content-length")], Some(HIDDEN)),
    ("an upgrade", &[("upgrade", "h2c")], Some(HIDDEN)),
    ("another name in upper case", &[("Transfer-Encoding", "chunked")], Some("0\r\n\r\n")),
    ("a value of two lines", &[("x-any", "a\r\ntransfer-encoding: chunked")], Some("0\r\n\r\n")),
    ("a value with a bare LF", &[("x-any", "a\ntransfer-encoding: chunked")], Some("0\r\n\r\n")),
    ("a value with a bare CR", &[("x-any", "a\rtransfer-encoding: chunked")], Some("0\r\n\r\n")),
    ("a value with a NUL", &[("x-any", "a\0b")], None),
    ("a value with a request", &[("x-any", "a\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x")], None),
    ("a name of two lines", &[("x-any: a\r\ntransfer-encoding", "chunked")], Some("0\r\n\r\n")),
    ("a name with a colon", &[("transfer-encoding:chunked", "a")], Some("0\r\n\r\n")),
    ("a name with a space", &[("transfer-encoding ", "chunked")], Some("0\r\n\r\n")),
    ("an empty name", &[("", "a")], None),
    ("a method of two lines", &[(":method", "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\nGET")], None),
    ("a method with a space", &[(":method", "GET /hidden")], None),
    ("a path of two lines", &[(":path", "/targets/x/y HTTP/1.1\r\nHost: x\r\n\r\nGET /hidden")], None),
    ("a path with a space", &[(":path", "/targets/x/y HTTP/1.1")], None),
    ("an authority of two lines", &[(":authority", "127.0.0.1\r\nx-any: a")], None),
    ("a scheme with a request", &[(":scheme", "http://x/hidden HTTP/1.1\r\n\r\n")], None),
    ("another host", &[("host", "hidden")], None),
    ("two hosts", &[("host", "127.0.0.1"), ("host", "127.0.0.1")], None),
    ("two paths", &[(":path", "/targets/x/hidden"), (":path", "/targets/x/hidden")], None),
];

/// Fields that HTTP/2 may not have behind a body either. They are announced in the head, as without
/// that they would not be passed on anyway.
const TRAILERS: &[&str] = &[
    "content-length",
    "transfer-encoding",
    "transfer_encoding",
    "host",
    "cookie",
    "authorization",
    "x-forwarded-for",
    "x-webriskops-signature",
    "webhook-signature",
];

/// A server of somebody else's, the target `x` of a gateway.
struct Server {
    child: Child,
    stop: &'static str,
    begun: PathBuf,
    whole: PathBuf,
    /// Framing that it takes and the gateway does not, with a body of five bytes.
    takes: &'static str,
}

impl Server {
    /// Shows it one message without the gateway, which two parsers read differently, and asserts
    /// that it finds the hidden one: it can be fooled, and says so. Forgets both then.
    async fn assert_can_be_fooled(&self, ca: &Ca) {
        let tls = ca.client_config(None, &[]);
        let mut conn = Conn::open_tls((PUBLIC, 443).into(), tls, "x.example").await.unwrap();
        let head = "POST /direct HTTP/1.1\r\nHost: x.example\r\n";
        conn.send(format!("{head}{}{HIDDEN}", self.takes)).await;
        assert_eq!((conn.reply().await.status, conn.reply().await.status), (200, 200));
        let wanted = ["POST /direct 5", "GET /targets/x/hidden 0"];
        eventually("both are written down", async || (lines(&self.whole) == wanted).then_some(()))
            .await;
        drop(conn);
        eventually("both began", async || (lines(&self.begun).len() == 2).then_some(())).await;
        for path in [&self.begun, &self.whole] {
            std::fs::write(path, "").unwrap();
        }
    }

    /// Waits until everything that came was read, and gives the messages that began and those that
    /// came to their end.
    async fn end(mut self) -> (Vec<String>, Vec<String>) {
        signal(self.child.id(), self.stop);
        eventually("the server ends", async || self.child.try_wait().unwrap()).await;
        (lines(&self.begun), lines(&self.whole))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(ToOwned::to_owned).collect()
}

fn nginx(lab: &Lab, identity: &Identity) -> Server {
    let dir = lab.dir().display();
    let (begun, whole) = (lab.file("begun", ""), lab.file("whole", ""));
    // The server in front reads a message whole before the one behind it hears of it.
    let config = format!(
        r#"
        user root; daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.log info;
        events {{ worker_connections 64; }}
        http {{
            client_body_temp_path {dir}/temp1; proxy_temp_path {dir}/temp2;
            fastcgi_temp_path {dir}/temp3; uwsgi_temp_path {dir}/temp4; scgi_temp_path {dir}/temp5;
            map $http_content_length $body {{ "" 0; default $http_content_length; }}
            log_format begun "$request_method $request_uri $http_content_length $http_transfer_encoding";
            log_format whole "$request_method $request_uri $body";
            server {{
                listen {PUBLIC}:443 ssl;
                ssl_certificate {cert}; ssl_certificate_key {key};
                access_log {begun} begun;
                location / {{ proxy_pass http://unix:{dir}/behind; }}
            }}
            server {{
                listen unix:{dir}/behind;
                access_log {whole} whole;
                location / {{ return 200 "$request_method $request_uri $body"; }}
            }}
        }}"#,
        cert = identity.cert_file.display(),
        key = identity.key_file.display(),
        begun = begun.display(),
        whole = whole.display(),
    );
    let mut command = Command::new(installed().join("nginx/usr/sbin/nginx"));
    command.arg("-p").arg(lab.dir()).args(["-e", "stderr", "-c"]).arg(lab.file("conf", config));
    let child = command.spawn().expect("nginx starts");
    let takes = "Transfer-Encoding: chunked\r\n\r\n5;\nhello\r\n0\r\n\r\n";
    Server { child, stop: "QUIT", begun, whole, takes }
}

fn node(lab: &Lab, identity: &Identity) -> Server {
    let (begun, whole) = (lab.file("begun", ""), lab.file("whole", ""));
    let script = r#"
        const { appendFileSync, readFileSync } = require("node:fs");
        const [address, cert, key, begun, whole] = process.argv.slice(1);
        const options = {
            cert: readFileSync(cert), key: readFileSync(key),
            insecureHTTPParser: true, requireHostHeader: false,
        };
        const server = require("node:https").createServer(options, (request, response) => {
            const line = `${request.method} ${request.url}`;
            const raw = request.rawHeaders;
            const all = (name) =>
                raw.filter((_, at) => at % 2 && raw[at - 1].toLowerCase() === name).join() || "-";
            const framing = `${all("content-length")} ${all("transfer-encoding")}`;
            appendFileSync(begun, `${line} ${framing}\n`);
            let length = 0;
            request.on("data", (data) => { length += data.length; });
            request.on("end", () => {
                appendFileSync(whole, `${line} ${length}\n`);
                response.end(`${line} ${length}`);
            });
        });
        server.listen(443, address);
        process.on("SIGTERM", () => server.close());
    "#;
    let mut command = Command::new("node");
    command.args(["-e", script, &PUBLIC.to_string()]);
    command.arg(&identity.cert_file).arg(&identity.key_file).arg(&begun).arg(&whole);
    command.stdin(Stdio::null());
    let child = command.spawn().expect("node starts");
    let takes = "Content-Length: 63\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    Server { child, stop: "TERM", begun, whole, takes }
}

/// Shows everything to a gateway with this server behind it, and asserts what the server saw.
async fn assert_not_fooled(lab: Lab, start: fn(&Lab, &Identity) -> Server) {
    lab.dns.addresses("x.example", &[PUBLIC]);
    let ca = lab.ca("ca");
    let server = start(&lab, &ca.server(&["x.example"]));
    let config = lab.config().trusting(&ca).self_hosted("x", "https://x.example");
    let gateway = lab.gateway(&config).await;
    eventually("the server listens", async || Conn::try_open((PUBLIC, 443).into()).await.ok())
        .await;
    server.assert_can_be_fooled(&ca).await;

    let mut expected = Vec::new();
    for (name, rest) in HEADS {
        let head = format!("POST /targets/x/head HTTP/1.1\r\nHost: 127.0.0.1\r\n{rest}{HIDDEN}");
        assert_eq!(ask(&gateway, &head).await, [400], "{name}");
        expected.push(canary(&gateway, name).await);
    }
    for (index, (name, body)) in BODIES.iter().enumerate() {
        let head = format!(
            "POST /targets/x/body-{index} HTTP/1.1\r\nHost: 127.0.0.1\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!(ask(&gateway, &format!("{head}{body}{HIDDEN}")).await, [400], "{name}");
        expected.push(canary(&gateway, name).await);
    }
    for (name, text, answers, messages) in WHOLE {
        let text = text.replace('@', "/targets/x").replace('#', HIDDEN);
        assert_eq!(ask(&gateway, &text).await, *answers, "{name}");
        expected.extend(messages.iter().map(|message| (*message).to_owned()));
        expected.push(canary(&gateway, name).await);
    }
    for (index, (name, fields, data)) in DOWNGRADES.iter().enumerate() {
        let path = format!("/targets/x/downgrade-{index}");
        assert!(!ask_http2(&gateway, &path, fields, *data, None).await, "{name}");
        expected.push(canary(&gateway, name).await);
    }
    for name in TRAILERS {
        let path = format!("/targets/x/trailer-{name}");
        let announced = [("trailer", *name)];
        assert!(!ask_http2(&gateway, &path, &announced, Some("a"), Some(name)).await, "{name}");
        expected.push(canary(&gateway, name).await);
    }
    let whole: [(Fields, Option<&str>); 3] = [
        (&[], None),
        (&[("content-length", "48")], None),
        (&[("trailer", "x-sum")], Some("x-sum")),
    ];
    for (fields, trailer) in whole {
        assert!(ask_http2(&gateway, "/targets/x/h2", fields, Some(HIDDEN), trailer).await);
        expected.push("POST /h2 48".to_owned());
    }

    drop(gateway);
    let (begun, whole) = server.end().await;
    assert_eq!(whole, expected);
    for line in &begun {
        let words: Vec<_> = line.split(' ').collect();
        assert!(!line.contains("hidden"), "{line}");
        let length = |word: &str| word.parse::<u64>().is_ok();
        match words[2..] {
            ["-", "-" | "chunked"] => {}
            [word, "-"] if length(word) => {}
            _ => panic!("two readings: {line}"),
        }
    }
    for (index, (name, _)) in BODIES.iter().enumerate() {
        let times = begun.iter().filter(|line| line.contains(&format!("/body-{index} "))).count();
        assert!(times <= 1, "{name}: {times}");
    }
    assert!(!begun.iter().any(|line| line.contains("/head")), "{begun:?}");
}

/// Sends this in one piece and nothing more; gives the status of every answer until the end.
async fn ask(gateway: &Gateway, text: &str) -> Vec<u16> {
    let mut conn = Conn::open(gateway.proxy).await;
    conn.send(text).await;
    conn.finish().await;
    let mut answers = Vec::new();
    // Interim answers aside: they ask whether somebody still waits.
    while let Ok(reply) = within("the next answer", conn.try_reply()).await {
        answers.extend(Some(reply.status).filter(|status| *status >= 200));
    }
    answers
}

/// An ordinary request after each case: its answer is its own. Gives what the server sees of it.
async fn canary(gateway: &Gateway, name: &str) -> String {
    let name: String = name.chars().filter(char::is_ascii_alphabetic).collect();
    let reply = gateway.get(&format!("/targets/x/after-{name}")).await;
    let expected = format!("GET /after-{name} 0");
    assert_eq!(String::from_utf8_lossy(&reply.body), expected, "{reply:?}");
    expected
}

/// Sends one HTTP/2 request by hand; says whether it was answered with 200.
async fn ask_http2(
    gateway: &Gateway,
    path: &str,
    fields: &[(&str, &str)],
    data: Option<&str>,
    trailer: Option<&str>,
) -> bool {
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    const RST_STREAM: u8 = 3;
    const GOAWAY: u8 = 7;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    // `:status: 200` is one byte of the static table (RFC 7541, appendix A).
    const STATUS_200: u8 = 0x88;

    let usual =
        [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "127.0.0.1")];
    let set = |name| fields.iter().any(|(field, _)| *field == name);
    // Pseudo-fields come first.
    let (pseudo, plain): (Vec<_>, Vec<_>) =
        fields.iter().partition(|field| field.0.starts_with(':'));
    let all = usual.iter().filter(|field| !set(field.0)).chain(pseudo).chain(plain);
    let head = block(all);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let end = if data.is_none() { END_STREAM } else { 0 };
    bytes.extend(frame(HEADERS, END_HEADERS | end, 1, &head));
    if let Some(data) = data {
        let end = if trailer.is_none() { END_STREAM } else { 0 };
        bytes.extend(frame(DATA, end, 1, data.as_bytes()));
    }
    if let Some(name) = trailer {
        let block = block([&(name, "1")]);
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    }
    let mut conn = Conn::open(gateway.proxy).await;
    conn.send(bytes).await;
    within("the answer's arrival", async {
        let mut good = false;
        while let Ok(head) = conn.try_take(9).await {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let payload = conn.try_take(length.try_into().unwrap()).await.unwrap();
            match (head[3], head[4] & END_STREAM) {
                (RST_STREAM | GOAWAY, _) => return false,
                (HEADERS, end) => {
                    good = payload[0] == STATUS_200;
                    if end == END_STREAM {
                        return good;
                    }
                }
                (DATA, END_STREAM) => return good,
                _ => {}
            }
        }
        false
    })
    .await
}

/// Fields as HPACK has them: literals without indexing, with new names (RFC 7541, section 6.2.2).
fn block<'a>(fields: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte of length");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn nginx_behind_the_gateway_sees_one_message_for_each_request() {
    lab::run(async |lab| assert_not_fooled(lab, nginx).await);
}

#[test]
fn node_behind_the_gateway_sees_one_message_for_each_request() {
    lab::run(async |lab| assert_not_fooled(lab, node).await);
}
