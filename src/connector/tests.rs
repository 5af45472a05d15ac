//! Both ends against each other, over real sockets on loopback.
#![expect(clippy::disallowed_methods, reason = "tests open sockets and tasks of their own")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::crypto::aws_lc_rs;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    client::{self, LinkError, allow::Allowlist, enrol::enrol, settings::Settings},
    gateway::{self, ConnectorStream, Connectors},
    hello::{self, Answer, Ask, Hello, Why},
    keys::Key,
    token::Token,
};
use crate::{origin::Authority, store::Store, telemetry::LogFormat, tunnel::error::TunnelError};

const LONG: Duration = Duration::from_secs(20);

struct Lab {
    folder: TempDir,
    store: Store,
    key: Key,
    connectors: Arc<Connectors>,
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// A running connector; cut when dropped.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

async fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !probe() {
        assert!(Instant::now() < end, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("ends in time")
}

impl Lab {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/gateway.db", folder.path().display());
        let store = Store::open(&url).await.unwrap();
        let key = Key::load_or_create(&folder.path().join("gateway.key")).unwrap();
        let connectors = Connectors::new(store.clone(), &key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving =
            tokio::spawn(gateway::serve(Arc::clone(&connectors), vec![listener], stop.clone()));
        Self { folder, store, key, connectors, address, stop, serving }
    }

    fn at(&self) -> Authority {
        Authority::parse(&self.address.to_string()).unwrap()
    }

    async fn token(&self, name: &str, ttl: i64) -> Token {
        let token = Token::new(vec![self.at()], self.key.pin(), name.into()).unwrap();
        let (hash, expires_at) = (token.hash(), now() + ttl);
        self.store.add_connector_token(&hash, name, expires_at, now()).await.unwrap();
        token
    }

    fn new_key(&self) -> Key {
        let path: PathBuf = self.folder.path().join(ulid::Ulid::new().to_string());
        Key::create(&path).unwrap()
    }

    async fn enrolled(&self, name: &str) -> Key {
        let key = self.new_key();
        assert_eq!(enrol(&self.token(name, 60).await, &key).await.unwrap(), name);
        key
    }

    fn settings(&self, key: &Key, allow: &[SocketAddr]) -> Settings {
        let allow: Vec<_> = allow.iter().map(ToString::to_string).collect();
        Settings {
            name: "acme".into(),
            gateways: vec![self.at()],
            pins: vec![self.key.pin()],
            key: key.clone(),
            allow: Allowlist::parse(allow.iter().map(String::as_str)).unwrap(),
            log: LogFormat::Json,
        }
    }

    /// Runs a connector of the name `acme`, and waits until it is connected.
    async fn connector(&self, allow: &[SocketAddr]) -> Running {
        let key = self.enrolled("acme").await;
        let before = self.links();
        let running = self.run(&key, allow);
        eventually("a connector is connected", || self.links() == before + 1).await;
        running
    }

    fn run(&self, key: &Key, allow: &[SocketAddr]) -> Running {
        let stop = CancellationToken::new();
        let (settings, own) = (self.settings(key, allow), stop.clone());
        let task = tokio::spawn(async move { client::run(settings, own).await.unwrap() });
        Running { stop, task }
    }

    fn links(&self) -> usize {
        self.connectors.status("acme").links
    }

    async fn open(&self, to: SocketAddr) -> Result<ConnectorStream, TunnelError> {
        within(self.connectors.open("acme", to)).await
    }

    /// TLS as a connector speaks it, and nothing after it.
    async fn tls(&self, key: &Key) -> TlsStream<TcpStream> {
        let config = key.client(vec![self.key.pin()]).unwrap();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = rustls_pki_types::ServerName::from(self.address.ip());
        TlsConnector::from(config).connect(name, tcp).await.unwrap()
    }
}

/// A target that gives back what it gets, and ends when its client does.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    drop(write.shutdown().await);
                }
            });
        }
    });
    address
}

/// A target whose connections the test serves itself.
async fn target() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Bytes that are not the same anywhere.
fn pattern(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[tokio::test]
async fn a_stream_carries_both_ways_and_each_direction_ends_by_itself() {
    let lab = Lab::new().await;
    let (listener, address) = target().await;
    let _running = lab.connector(&[address]).await;
    let mut stream = lab.open(address).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    far.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    within(stream.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"hello");
    // our direction ends; the other one goes on
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    within(far.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "last words");
    far.write_all(b"still here").await.unwrap();
    far.shutdown().await.unwrap();
    let mut heard = String::new();
    within(stream.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "still here");
    assert_eq!(lab.connectors.status("acme").streams, 1);
    drop(stream);
    assert_eq!(lab.connectors.status("acme").streams, 0);
    assert!(lab.connectors.status("acme").round_trip.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_streams_at_once_keep_their_bytes_apart() {
    let lab = Lab::new().await;
    let address = echo().await;
    let _running = lab.connector(&[address]).await;
    let mut open = Vec::new();
    for _ in 0..500 {
        open.push(lab.open(address).await.unwrap());
    }
    assert_eq!(lab.connectors.status("acme").streams, 500);
    let mut streams = JoinSet::new();
    for (number, mut stream) in (0_u32..).zip(open) {
        streams.spawn(async move {
            let sent = number.to_be_bytes().repeat(2000);
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let writing = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (read, ()) = tokio::join!(read.read_to_end(&mut got), writing);
            read.unwrap();
            assert_eq!(got, sent);
        });
    }
    let ended = within(streams.join_all()).await;
    assert_eq!(ended.len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_arrives_whole_and_a_stalled_neighbour_neither_stops_it_nor_grows() {
    let lab = Lab::new().await;
    let (listener, stalled) = target().await;
    let address = echo().await;
    let _running = lab.connector(&[address, stalled]).await;
    // nobody reads behind this one: what it takes is what windows and sockets hold
    let mut stuck = lab.open(stalled).await.unwrap();
    let (_unread, _) = listener.accept().await.unwrap();
    let mut taken = 0_usize;
    let chunk = vec![7; 64 << 10];
    while let Ok(written) = timeout(Duration::from_millis(500), stuck.write(&chunk)).await {
        taken += written.unwrap();
        assert!(taken < 64 << 20, "a stream that nobody reads takes ever more");
    }
    let mut stream = lab.open(address).await.unwrap();
    let sent = pattern(16 << 20);
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = within(async { tokio::join!(read.read_to_end(&mut got), writing) }).await;
    read.unwrap();
    assert!(got == sent, "{} of {} bytes, or others", got.len(), sent.len());
}

/// Linux sends at most 64 KiB as one packet, headers included, of whole segments: 44 of 1460 bytes
/// on Ethernet, one of 65,483 on loopback.
#[test]
fn a_frame_with_tls_around_it_is_two_packets() {
    const PACKET_BYTES: u32 = 44 * 1460;
    let frame = super::FRAME_BYTES_MAX + 9;
    let records = frame.div_ceil(16 << 10);
    let written = frame + records * 22;
    assert_eq!(written.div_ceil(PACKET_BYTES), 2, "{written} bytes");
}

#[tokio::test]
async fn the_connectors_own_allowlist_refuses_each_stream_that_it_does_not_hold() {
    let lab = Lab::new().await;
    let (listener, address) = target().await;
    let (other, elsewhere) = target().await;
    let _running = lab.connector(&[address]).await;
    let refused = lab.open(elsewhere).await.unwrap_err();
    assert!(matches!(&refused, TunnelError::Denied(_)), "{refused:?}");
    assert!(timeout(Duration::from_millis(50), other.accept()).await.is_err(), "it was dialled");
    // and the connection serves on
    let _stream = lab.open(address).await.unwrap();
    within(listener.accept()).await.unwrap();
}

#[tokio::test]
async fn a_target_that_refuses_is_told_from_a_connector_that_does() {
    let lab = Lab::new().await;
    let (listener, address) = target().await;
    let _running = lab.connector(&[address]).await;
    drop(listener);
    let refused = lab.open(address).await.unwrap_err();
    assert_eq!(refused, TunnelError::BeyondUnreachable("connection refused".into()));
}

#[tokio::test]
async fn a_reset_stays_one_in_both_directions() {
    let lab = Lab::new().await;
    let (listener, address) = target().await;
    let _running = lab.connector(&[address]).await;
    let mut stream = lab.open(address).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    far.set_zero_linger().unwrap();
    drop(far);
    let error = within(stream.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    for explicit in [true, false] {
        let mut stream = lab.open(address).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(within(far.read_u8()).await.unwrap(), b'x');
        if explicit {
            stream.reset();
        }
        drop(stream);
        let error = within(far.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{explicit}");
    }
}

#[tokio::test]
async fn a_lost_connection_resets_its_streams_at_the_target_too() {
    let lab = Lab::new().await;
    let (listener, address) = target().await;
    let running = lab.connector(&[address]).await;
    let mut stream = lab.open(address).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    drop(running);
    assert!(within(stream.read_u8()).await.is_err());
    let error = within(far.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("it is gone", || lab.links() == 0).await;
    let started = Instant::now();
    let none = lab.open(address).await.unwrap_err();
    assert!(matches!(none, TunnelError::Unreachable(_)), "{none:?}");
    assert!(started.elapsed() < Duration::from_secs(1), "at once, not after a time-out");
}

#[tokio::test]
async fn a_token_enrols_once_in_time_and_only_with_the_pinned_gateway() {
    let lab = Lab::new().await;
    let token = lab.token("acme", 60).await;
    let refused = async |token: &Token| {
        let error = enrol(token, &lab.new_key()).await.unwrap_err();
        let LinkError::Refused(why, _) = error else { panic!("{error:?}") };
        why
    };
    assert_eq!(enrol(&token, &lab.new_key()).await.unwrap(), "acme");
    assert_eq!(refused(&token).await, Why::TokenUsed);
    assert_eq!(refused(&lab.token("acme", -1).await).await, Why::TokenExpired);
    let stranger = Token::new(vec![lab.at()], lab.key.pin(), "acme".into()).unwrap();
    assert_eq!(refused(&stranger).await, Why::TokenUnknown);
    let elsewhere = Token::new(vec![lab.at()], lab.new_key().pin(), "acme".into()).unwrap();
    let error = enrol(&elsewhere, &lab.new_key()).await.unwrap_err();
    assert!(error.to_string().contains("another key than the pinned one"), "{error}");
    assert_eq!(lab.store.connectors().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_that_nobody_enrolled_opens_nothing() {
    let lab = Lab::new().await;
    let mut tls = lab.tls(&lab.new_key()).await;
    hello::write(&mut tls, &Hello::new(Ask::Carry, "", None)).await.unwrap();
    let answer: Answer = within(hello::read(&mut tls)).await.unwrap();
    assert!(matches!(answer, Answer::Refused { why: Why::UnknownKey, .. }), "{answer:?}");
    assert_eq!(lab.links(), 0);
}

#[tokio::test]
async fn a_revoked_connector_is_cut_within_a_second_and_stays_out() {
    let lab = Lab::new().await;
    let (listener, address) = target().await;
    let key = lab.enrolled("acme").await;
    let _running = lab.run(&key, &[address]);
    eventually("connected", || lab.links() == 1).await;
    let mut stream = lab.open(address).await.unwrap();
    let (_far, _) = listener.accept().await.unwrap();
    assert_eq!(lab.store.revoke_connectors("acme", None, now()).await.unwrap(), 1);
    let started = Instant::now();
    assert!(within(stream.read_u8()).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(lab.open(address).await.is_err());
    let mut tls = lab.tls(&key).await;
    hello::write(&mut tls, &Hello::new(Ask::Carry, "", None)).await.unwrap();
    let answer: Answer = within(hello::read(&mut tls)).await.unwrap();
    assert!(matches!(answer, Answer::Refused { why: Why::Revoked, .. }), "{answer:?}");
}

#[tokio::test]
async fn connectors_of_one_name_share_the_load_and_survive_the_loss_of_one() {
    let lab = Lab::new().await;
    let address = echo().await;
    let first = lab.connector(&[address]).await;
    let _second = lab.connector(&[address]).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(lab.open(address).await.unwrap());
    }
    drop(first);
    let mut alive = 0;
    for stream in &mut streams {
        let sent = stream.write_all(b"x").await.is_ok();
        alive += usize::from(sent && within(stream.read_u8()).await.is_ok());
    }
    assert_eq!(alive, 5);
    // also before the loss is noticed
    lab.open(address).await.unwrap();
    eventually("one is left", || lab.links() == 1).await;
}

#[tokio::test]
async fn a_connector_of_another_version_is_named_with_both_versions() {
    let lab = Lab::new().await;
    let key = lab.enrolled("acme").await;
    let mut tls = lab.tls(&key).await;
    let old = Hello { versions: vec![0], ..Hello::new(Ask::Carry, "", None) };
    hello::write(&mut tls, &old).await.unwrap();
    let answer: Answer = within(hello::read(&mut tls)).await.unwrap();
    assert_eq!(answer, Answer::Refused { why: Why::Version, versions: vec![1] });
    let shown = LinkError::Refused(Why::Version, vec![7]).to_string();
    assert!(shown.contains("version 7") && shown.contains("version 1"), "{shown}");
    let error = lab.open("10.0.0.1:443".parse().unwrap()).await.unwrap_err();
    let TunnelError::Protocol(text) = &error else { panic!("{error:?}") };
    assert!(text.contains("version 0") && text.contains("version 1"), "{text}");
    // a newer connector of that name ends it
    let (_listener, address) = target().await;
    let running = lab.connector(&[address]).await;
    drop(running);
    eventually("it is gone", || lab.links() == 0).await;
    let error = lab.open(address).await.unwrap_err();
    assert!(matches!(error, TunnelError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_process_that_dials_again_replaces_its_lost_connection() {
    let lab = Lab::new().await;
    let key = lab.enrolled("acme").await;
    let greet = async |instance: &str| {
        let mut tls = lab.tls(&key).await;
        hello::write(&mut tls, &Hello::new(Ask::Carry, instance, None)).await.unwrap();
        let answer: Answer = within(hello::read(&mut tls)).await.unwrap();
        assert!(matches!(answer, Answer::Welcome { version: 1, .. }), "{answer:?}");
        h2::server::handshake(tls).await.unwrap()
    };
    let serve = |mut h2: h2::server::Connection<TlsStream<TcpStream>, bytes::Bytes>| {
        tokio::spawn(async move { while h2.accept().await.is_some() {} })
    };
    let first = serve(greet("one").await);
    eventually("connected", || lab.links() == 1).await;
    let _second = serve(greet("one").await);
    within(first).await.unwrap();
    assert_eq!(lab.links(), 1);
    let _other = serve(greet("two").await);
    eventually("another process is another connection", || lab.links() == 2).await;
}

#[tokio::test]
async fn garbage_on_the_listener_costs_nothing() {
    let lab = Lab::new().await;
    let address = echo().await;
    let bytes = pattern(4096);
    for length in [0, 1, 5, 100, 4096] {
        let mut tcp = TcpStream::connect(lab.address).await.unwrap();
        drop(tcp.write_all(&bytes[..length]).await);
        drop(tcp.shutdown().await);
        let mut rest = Vec::new();
        drop(within(tcp.read_to_end(&mut rest)).await);
    }
    // TLS with a certificate verifier of the web, or of another version, or with no key of its own
    let provider = Arc::new(aws_lc_rs::default_provider());
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let tcp = TcpStream::connect(lab.address).await.unwrap();
        let name = rustls_pki_types::ServerName::from(lab.address.ip());
        let refused = within(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await;
        assert!(refused.is_err());
    }
    // a hello that is none, or never ends
    for line in [b"\n".as_slice(), b"{}\n", b"[[[[\n", &[b'{'; 5000], b"PRI * HTTP/2.0\r\n\r\n"] {
        let mut tls = lab.tls(&lab.new_key()).await;
        drop(tls.write_all(line).await);
        let mut rest = Vec::new();
        drop(within(tls.read_to_end(&mut rest)).await);
        assert!(rest.is_empty(), "{rest:?}");
    }
    assert!(!lab.serving.is_finished());
    let _running = lab.connector(&[address]).await;
    lab.open(address).await.unwrap();
}

#[tokio::test]
async fn those_who_dawdle_make_room_for_those_who_do_not() {
    let lab = Lab::new().await;
    let address = echo().await;
    let mut dawdlers = Vec::new();
    for _ in 0..300 {
        dawdlers.push(TcpStream::connect(lab.address).await.unwrap());
    }
    let started = Instant::now();
    let _running = lab.connector(&[address]).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    // the oldest were closed, and long before their time
    assert!(matches!(within(dawdlers[0].read(&mut [0])).await, Ok(0) | Err(_)));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_connector_that_is_told_to_stop_lets_its_streams_end() {
    let lab = Lab::new().await;
    let address = echo().await;
    let mut running = lab.connector(&[address]).await;
    let mut stream = lab.open(address).await.unwrap();
    running.stop.cancel();
    eventually("it takes no new streams", || lab.links() == 0).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(within(stream.read_u8()).await.unwrap(), b'x');
    assert!(!running.task.is_finished());
    stream.shutdown().await.unwrap();
    assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
    drop(stream);
    within(&mut running.task).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_stops_sends_its_connectors_to_its_successor_and_carries_on() {
    let lab = Lab::new().await;
    let address = echo().await;
    let _running = lab.connector(&[address]).await;
    let mut stream = lab.open(address).await.unwrap();
    // the successor listens on the same port once the first does no more
    lab.stop.cancel();
    let listener = loop {
        match TcpListener::bind(lab.address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let successor = Connectors::new(lab.store.clone(), &lab.key).unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(gateway::serve(Arc::clone(&successor), vec![listener], stop));
    eventually("the successor has it", || successor.status("acme").links == 1).await;
    within(successor.open("acme", address)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(within(stream.read_u8()).await.unwrap(), b'x');
    lab.connectors.close();
    assert!(within(stream.read_u8()).await.is_err());
    within(lab.serving).await.unwrap();
    serving.abort();
}
