//! Checks within one program, where sessions could be resumed and steps are heard of.

use std::sync::{Arc, Mutex};

use rustls::{HandshakeKind, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    config,
    reason::Cause,
    sightings::Sightings,
    store::Store,
    target::Target,
    telemetry::metrics::Metrics,
    view::{Shared, View},
};

/// A target on loopback that answers every request with 200, and how each handshake went.
struct Scene {
    view: View,
    target: Arc<Target>,
    handshakes: Arc<Mutex<Vec<Option<HandshakeKind>>>>,
    _folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

async fn scene() -> Scene {
    let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handshakes: Arc<Mutex<Vec<_>>> = Arc::default();
    let noted = Arc::clone(&handshakes);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            noted.lock().unwrap().push(stream.get_ref().1.handshake_kind());
            let mut head = [0; 4096];
            drop(stream.read(&mut head).await);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            drop(stream.write_all(answer).await);
            // Until the other side closes.
            drop(stream.read(&mut head).await);
        }
    });

    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("root.pem");
    std::fs::write(&roots, identity.cert.pem()).unwrap();
    let file = folder.path().join("gateway.toml");
    let text = format!(
        "[policy]\nallow_loopback = true\n[dns]\nservers = [\"127.0.0.1:9\"]\n\
         [tls]\nextra_roots = [\"{}\"]\n[[targets]]\nid = \"acme\"\n\
         provider_key = \"jira_data_center\"\ndeployment_mode = \"self-hosted\"\n\
         ownership = \"confirmed\"\nbase_url = \"https://127.0.0.1:{port}\"\n\
         private_network_policy = \"direct\"\nprivate_network_allowlist = [\"127.0.0.0/8\"]\n",
        roots.display()
    );
    std::fs::write(&file, text).unwrap();
    let config = config::load(&[file]).map_err(|invalid| invalid.to_string()).unwrap().config;
    let store = Store::open("sqlite::memory:").await.unwrap();
    let (sightings, _writer) = Sightings::new(Vec::new(), store);
    let shared = Shared {
        sightings: Arc::new(sightings),
        metrics: Arc::new(Metrics::new().unwrap()),
        needs_egress: true,
        connectors: None,
    };
    let view = View::new(config, Vec::new(), &shared, None).unwrap();
    let target = Arc::clone(view.targets.get("acme").unwrap());
    Scene { view, target, handshakes, _folder: folder, _tasks: tasks }
}

#[tokio::test]
async fn every_check_sees_a_certificate_though_a_session_could_be_resumed() {
    let scene = scene().await;
    for _ in 0..2 {
        let check = walk(&scene.view, &scene.target, "id".into(), &mut |_| {}).await;
        assert_eq!(check.state, State::Ready, "{check:?}");
        assert!(check.tls.is_some_and(|certificate| certificate.not_after.is_some()));
    }
    let full = Some(HandshakeKind::Full);
    let hello_retry = Some(HandshakeKind::FullWithHelloRetryRequest);
    let seen = scene.handshakes.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|kind| *kind == full || *kind == hello_retry), "{seen:?}");
}

#[tokio::test]
async fn each_step_is_told_once_when_it_ends_in_order_and_as_it_is_kept() {
    let scene = scene().await;
    let mut told = Vec::new();
    let check = walk(&scene.view, &scene.target, "id".into(), &mut |step| {
        told.push(step.clone());
    })
    .await;
    assert_eq!(told, check.steps);
    let names: Vec<_> = told.iter().map(|step| step.name).collect();
    assert_eq!(names, StepName::ALL);
    // An address in the base URL is no question for DNS.
    assert_eq!(check.dns_status, DnsStatus::Skipped);
    assert_eq!(check.addresses, ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(check.connectivity_check_id.as_deref(), Some("id"));
}

#[tokio::test]
async fn what_a_check_found_is_what_traffic_is_refused_with() {
    let scene = scene().await;
    let target = Arc::new(Target { enabled: false, ..Target::clone(&scene.target) });
    let check = walk(&scene.view, &target, "id".into(), &mut |_| {}).await;
    assert_eq!(check.state, State::Stopped);
    let refusal = check.refusal(&target, &scene.view.egress_ips).unwrap();
    assert_eq!(refusal.cause, Cause::TargetDisabled);
    assert_eq!(Some(refusal.code().as_str()), check.code.as_deref());
    assert_eq!(refusal.check_id.as_deref(), Some("id"));
    assert!(scene.handshakes.lock().unwrap().is_empty());
}
