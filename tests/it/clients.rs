//! The clients that the product really uses: each allowed, and each refused with the code in sight.
//!
//! The scripts stand in `tests/clients`; `tests/run` installs what they need.

use crate::support::{
    gateway::Gateway,
    lab::{self, Lab, PUBLIC},
    receiver::Receiver,
    tls::Ca,
};
use std::path::{Path, PathBuf};

const TOKEN: &str = "a-clients-token-5f3e9a";
const CODE: &str = "SELF_HOSTED_BASE_URL_UNSAFE";

/// A gateway with one client, one HTTPS target, and what a script needs to know of them.
struct Scene {
    lab: Lab,
    gateway: Gateway,
    ca: Ca,
    _receiver: Receiver,
}

impl Scene {
    async fn new(
        lab: Lab,
        answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let ca = lab.ca("ca");
        let tls = ca.server(&["acme.example"]).server_config();
        let receiver = Receiver::https((PUBLIC, 443), tls, answer);
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let token = lab.secret("token", TOKEN);
        let config = lab
            .config()
            .client(&format!(
                "name = \"app\"\ntoken = {{ file = \"{}\" }}\ntargets = [\"*\"]",
                token.display()
            ))
            .self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config).await;
        Self { lab, gateway, ca, _receiver: receiver }
    }

    /// Runs a program with the scene in its environment; gives its two streams as one text.
    async fn run(&self, program: &Path, script: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
        let proxy = format!("http://app:{TOKEN}@{}", self.gateway.proxy);
        let mut command = std::process::Command::new(program);
        command
            .arg(script)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.lab.dir())
            .env("PROXY", proxy)
            .env("ANONYMOUS_PROXY", format!("http://{}", self.gateway.proxy))
            .env("CA", &self.ca.file)
            .env("ALLOWED", "https://acme.example")
            .env("REFUSED", "https://evil.example")
            .env("INSTALLED", installed())
            .current_dir(self.lab.dir());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = crate::support::within("the client's end", output).await.unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{}: {said}", output.status);
        said
    }

    /// Asserts that the script's request passed, and that its refused one showed the code.
    async fn assert_both(&self, program: &Path, script: &str) {
        let said = self.run(program, script).await;
        assert!(said.contains("allowed: hello from acme"), "{said}");
        let refused = said.split("refused:").nth(1).unwrap_or_else(|| panic!("{said}"));
        assert!(refused.contains(CODE), "the code is not in sight: {said}");
        self.assert_recorded().await;
    }

    /// One request of each kind stands in the log.
    async fn assert_recorded(&self) {
        for decision in ["allowed", "refused"] {
            let wanted = |event: &crate::support::gateway::Event| {
                event.is_canonical()
                    && event.text("decision") == decision
                    && event.text("client") == "app"
            };
            self.gateway.wait_event(decision, wanted).await;
        }
    }
}

fn hello(path: &str) -> Option<Vec<u8>> {
    (path == "/hello").then(|| b"hello from acme".to_vec())
}

/// Where `tests/run` puts what it installs.
pub(crate) fn installed() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    assert!(place.exists(), "{} is missing: tests/run installs it", place.display());
    place
}

pub(crate) fn python() -> PathBuf {
    installed().join("venv/bin/python")
}

#[test]
fn curl_is_allowed_and_refused() {
    lab::run(async |lab| {
        let scene = Scene::new(lab, hello).await;
        scene.assert_both(Path::new("bash"), "curl.sh").await;
    });
}

#[test]
fn curl_through_a_proxy_with_tls_is_allowed_and_refused() {
    lab::run(async |lab| {
        let proxy_ca = lab.ca("proxy-ca");
        let identity = proxy_ca.server(&["127.0.0.1"]);
        let ca = lab.ca("ca");
        let tls = ca.server(&["acme.example"]).server_config();
        let _receiver = Receiver::https((PUBLIC, 443), tls, hello);
        lab.dns.addresses("acme.example", &[PUBLIC]);
        let tls = format!(
            "{{ cert_file = \"{}\", key_file = \"{}\" }}",
            identity.cert_file.display(),
            identity.key_file.display()
        );
        let config = lab.config().self_hosted("acme", "https://acme.example");
        let gateway = lab.gateway(&config.set_toml("proxy.tls", &tls)).await;
        let curl = |url: &str| {
            let mut command = std::process::Command::new("curl");
            command
                .args(["--silent", "--verbose", "--max-time", "20", "--proxy"])
                .arg(format!("https://{}", gateway.proxy))
                .arg("--proxy-cacert")
                .arg(&proxy_ca.file)
                .arg("--cacert")
                .arg(&ca.file)
                .arg(url);
            tokio::task::spawn_blocking(move || command.output().unwrap())
        };
        let allowed = curl("https://acme.example/hello").await.unwrap();
        assert_eq!(String::from_utf8_lossy(&allowed.stdout), "hello from acme", "{allowed:?}");
        let refused = curl("https://evil.example/hello").await.unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains(CODE), "{refused:?}");
    });
}

#[test]
fn python_requests_is_allowed_and_refused() {
    lab::run(async |lab| {
        let scene = Scene::new(lab, hello).await;
        scene.assert_both(&python(), "requests_client.py").await;
    });
}

#[test]
fn python_httpx_is_allowed_and_refused() {
    lab::run(async |lab| {
        let scene = Scene::new(lab, hello).await;
        scene.assert_both(&python(), "httpx_client.py").await;
    });
}

#[test]
fn node_undici_is_allowed_and_refused() {
    lab::run(async |lab| {
        let scene = Scene::new(lab, hello).await;
        let said = scene.run(Path::new("node"), "undici_client.mjs").await;
        assert!(said.contains("allowed: hello from acme"), "{said}");
        // undici shows the status of a refused CONNECT and nothing else of it.
        let refused = said.split("refused:").nth(1).unwrap_or_else(|| panic!("{said}"));
        assert!(refused.contains("403"), "{said}");
        scene.assert_recorded().await;
    });
}

#[test]
fn git_over_https_is_allowed_and_refused() {
    lab::run(async |lab| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/git_repository.sh");
        let made = std::process::Command::new("bash").arg(script).arg(lab.dir()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let root = lab.dir().join("served");
        let scene = Scene::new(lab, move |path| {
            let path = path.split('?').next().unwrap_or_default();
            std::fs::read(root.join(path.trim_start_matches('/'))).ok()
        })
        .await;
        scene.assert_both(Path::new("bash"), "git.sh").await;
    });
}

#[test]
fn curl_shows_the_code_when_credentials_are_missing() {
    lab::run(async |lab| {
        let scene = Scene::new(lab, hello).await;
        let said = scene.run(Path::new("bash"), "curl_anonymous.sh").await;
        assert!(said.contains("GATEWAY_CLIENT_UNAUTHENTICATED"), "{said}");
        assert!(said.to_lowercase().contains("proxy-authenticate: basic"), "{said}");
    });
}
