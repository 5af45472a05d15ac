//! Tunnels against hops that follow a script, over real sockets.

use std::{collections::BTreeMap, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::*;
use crate::{
    dial::EgressAddresses,
    origin::Authority,
    resolve::{self, Resolver},
    secret::Secret,
    telemetry::metrics::Metrics,
    tls::Roots,
};

/// Long enough for anything on this machine.
const SOON: Duration = Duration::from_secs(20);

/// A vetted address, as far as these tests go.
fn private() -> SocketAddr {
    "10.20.0.5:8443".parse().unwrap()
}

fn private_v6() -> SocketAddr {
    "[fd00:20::5]:443".parse().unwrap()
}

/// A hop that treats every connection like this.
struct Scripted {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Scripted {
    async fn new<F, R>(script: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    fn on<F, R>(listener: TcpListener, script: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let run = script(stream);
                // What the far side does to a connection is its matter.
                connections.spawn(async move { drop(run.await) });
            }
        });
        Self { address, _tasks: tasks }
    }

    /// A hop that reads one CONNECT, answers with this, and then echoes.
    async fn http(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::new(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                head(&mut stream).await?;
                stream.write_all(&answer).await?;
                echo(stream).await
            }
        })
        .await
    }

    /// A hop that takes no credentials, reads one request of ten bytes, answers it with this, and
    /// then echoes.
    async fn socks(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::new(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                stream.read_exact(&mut [0; 3]).await?;
                stream.write_all(&[5, 0]).await?;
                stream.read_exact(&mut [0; 10]).await?;
                stream.write_all(&answer).await?;
                echo(stream).await
            }
        })
        .await
    }
}

async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(read).unwrap())
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await.map(drop)
}

fn at(address: SocketAddr) -> Authority {
    Authority::parse(&address.to_string()).unwrap()
}

fn http(address: SocketAddr, credentials: Option<Credentials>) -> Settings {
    Settings::Http(HttpTunnel { proxy: at(address), tls: None, credentials })
}

fn socks(address: SocketAddr) -> Settings {
    Settings::Socks5(SocksTunnel { proxy: at(address), credentials: None })
}

fn means(connect_timeout: Duration) -> Means {
    // Every hop of these tests has an address: nobody is asked.
    let servers = vec!["127.0.0.1:9".parse().unwrap()];
    let egress = EgressAddresses::default();
    let settings = resolve::Settings::new(servers, SOON, egress.clone());
    Means {
        egress,
        resolver: Arc::new(Resolver::new(settings).unwrap()),
        roots: Roots::only(&[]).unwrap(),
        connect_timeout,
        tls_timeout: SOON,
        connectors: None,
        metrics: Arc::new(Metrics::new().unwrap()),
    }
}

fn tunnels<const N: usize>(
    means: &Means,
    settings: [(&str, Settings); N],
    previous: Option<&Tunnels>,
) -> Tunnels {
    let settings = settings.map(|(name, settings)| (name.to_owned(), settings));
    Tunnels::new(BTreeMap::from(settings), means, previous).unwrap()
}

/// One tunnel that nobody watches.
fn tunnel(settings: Settings, limit: Duration) -> Arc<Tunnel> {
    let all = tunnels(&means(limit), [("acme", settings)], None);
    Arc::clone(all.get("acme").unwrap())
}

async fn open(tunnel: &Tunnel, to: SocketAddr) -> Result<TunnelStream, TunnelError> {
    let open = tunnel.core.open(to, tunnel.core.deadline());
    timeout(SOON, open).await.expect("an attempt ends by itself")
}

async fn failure(tunnel: &Tunnel) -> TunnelError {
    open(tunnel, private()).await.expect_err("no stream")
}

/// What comes through the tunnel: `early`, and an echo.
async fn carries(mut stream: TunnelStream, early: &[u8]) {
    stream.write_all(b"ping").await.unwrap();
    let expected = [early, b"ping"].concat();
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, expected);
}

#[tokio::test]
async fn connect_names_the_address_and_shows_the_credentials() {
    let (tell, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let hop = Scripted::new(move |mut stream| {
        let tell = tell.clone();
        async move {
            tell.send(head(&mut stream).await?).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            echo(stream).await
        }
    })
    .await;
    let basic = Credentials::Basic("gateway".into(), Secret::new(b"pa:ss".to_vec()));
    let bearer = Credentials::Bearer(Secret::new(b"t0ken".to_vec()));
    let rows = [
        (None, private(), "CONNECT 10.20.0.5:8443 HTTP/1.1\r\nHost: 10.20.0.5:8443\r\n\r\n"),
        (
            Some(basic),
            private_v6(),
            "CONNECT [fd00:20::5]:443 HTTP/1.1\r\nHost: [fd00:20::5]:443\r\n\
             Proxy-Authorization: Basic Z2F0ZXdheTpwYTpzcw==\r\n\r\n",
        ),
        (
            Some(bearer),
            private(),
            "CONNECT 10.20.0.5:8443 HTTP/1.1\r\nHost: 10.20.0.5:8443\r\n\
             Proxy-Authorization: Bearer t0ken\r\n\r\n",
        ),
    ];
    for (credentials, to, expected) in rows {
        let stream = open(&tunnel(http(hop.address, credentials), SOON), to).await.unwrap();
        carries(stream, b"").await;
        assert_eq!(heads.recv().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn any_2xx_opens_and_what_comes_with_the_head_is_the_targets() {
    for (answer, early) in [
        ("HTTP/1.1 200 Connection established\r\n\r\n", ""),
        ("HTTP/1.0 200\r\n\r\n", ""),
        ("HTTP/1.1 201 \r\nVia: 1.1 hop\r\n\r\nSSH-2.0-early\r\n", "SSH-2.0-early\r\n"),
        ("HTTP/1.1 299 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nab", "ab"),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\ny",
            "y",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 502 no\r\n\r\n", "HTTP/1.1 502 no\r\n\r\n"),
    ] {
        let hop = Scripted::http(answer).await;
        let stream = open(&tunnel(http(hop.address, None), SOON), private()).await;
        carries(stream.unwrap_or_else(|error| panic!("{answer:?}: {error}")), early.as_bytes())
            .await;
    }
}

#[tokio::test]
async fn an_answer_may_come_byte_by_byte() {
    let hop = Scripted::new(|mut stream| async move {
        stream.set_nodelay(true)?;
        head(&mut stream).await?;
        for byte in b"HTTP/1.1 200 OK\r\nServer: slow\r\n\r\nearly" {
            stream.write_all(&[*byte]).await?;
            tokio::task::yield_now().await;
        }
        echo(stream).await
    })
    .await;
    let stream = open(&tunnel(http(hop.address, None), SOON), private()).await.unwrap();
    carries(stream, b"early").await;
}

#[tokio::test]
async fn every_status_has_its_meaning() {
    use TunnelError::{Auth, BeyondUnreachable, Denied, Protocol, Unreachable};
    let same = std::mem::discriminant::<TunnelError>;
    for (status, expected) in [
        (407, Auth(String::new())),
        (401, Auth(String::new())),
        (403, Denied(String::new())),
        (404, Denied(String::new())),
        (429, Denied(String::new())),
        (400, Protocol(String::new())),
        (405, Protocol(String::new())),
        (501, Protocol(String::new())),
        (302, Protocol(String::new())),
        (101, Protocol(String::new())),
        (500, BeyondUnreachable(String::new())),
        (502, Unreachable(String::new())),
        (503, BeyondUnreachable(String::new())),
        (504, BeyondUnreachable(String::new())),
        (599, BeyondUnreachable(String::new())),
    ] {
        let answer = format!("HTTP/1.1 {status} secret-from-the-hop\r\n\r\n<html>body");
        let hop = Scripted::http(answer).await;
        let tunnel = tunnel(http(hop.address, None), SOON);
        let error = failure(&tunnel).await;
        assert_eq!(same(&error), same(&expected), "{status}: {error}");
        assert!(!error.to_string().contains("secret-from-the-hop"));
        assert!(tunnel.core.health.known().down.is_none(), "{status}: the hop answered");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_refused_as_soon_as_that_shows() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(16 * 1024));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(9) + "HTTP/1.1 200 OK\r\n\r\n";
    // The hop goes on after these and does not close: no more bytes are waited for.
    for answer in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "\u{15}\u{3}\u{1}\0\u{2}\u{2}F",
        "\u{5}\0",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        "HTTP/1.1 200 OK\rA: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA b\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        &long,
        &interim,
    ] {
        let hop = Scripted::http(answer).await;
        let tunnel = tunnel(http(hop.address, None), SOON);
        let error = failure(&tunnel).await;
        let shown = &answer[..answer.len().min(60)];
        assert!(matches!(error, TunnelError::Protocol(_)), "{shown:?}: {error}");
        assert_eq!(tunnel.state(), TunnelState::Unreachable, "{shown:?}");
    }
}

#[tokio::test]
async fn an_endless_head_is_read_no_further_than_its_limit() {
    for beginning in ["HTTP/1.1 200 OK\r\nA: ", "HTTP/1.1 200 "] {
        let (tell, sent) = tokio::sync::watch::channel(0);
        let hop = Scripted::new(move |mut stream| {
            let tell = tell.clone();
            async move {
                head(&mut stream).await?;
                stream.write_all(beginning.as_bytes()).await?;
                loop {
                    stream.write_all(&[b'a'; 1024]).await?;
                    tell.send_modify(|sent| *sent += 1024);
                }
            }
        })
        .await;
        let error = failure(&tunnel(http(hop.address, None), SOON)).await;
        assert!(matches!(error, TunnelError::Protocol(_)), "{error}");
        assert!(*sent.borrow() >= 8 * 1024, "it was not the limit that ended it");
    }
}

#[tokio::test]
async fn silence_ends_within_the_limit_and_says_nothing_of_an_http_hop() {
    let silent = Scripted::new(|stream| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let limit = Duration::from_millis(100);
    let over_http = tunnel(http(silent.address, None), limit);
    assert_eq!(failure(&over_http).await, TunnelError::Timeout);
    // Perhaps it is the target that is silent.
    assert_eq!(over_http.state(), TunnelState::Healthy);
    let over_socks = tunnel(socks(silent.address), limit);
    assert_eq!(failure(&over_socks).await, TunnelError::Timeout);
    assert_eq!(over_socks.state(), TunnelState::Unreachable);
}

#[tokio::test]
async fn a_hop_that_closes_is_not_there() {
    for answer in ["", "HTTP/1.1 200"] {
        let hop = Scripted::new(move |mut stream| async move {
            head(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await
        })
        .await;
        let error = failure(&tunnel(http(hop.address, None), SOON)).await;
        let expected = if answer.is_empty() { "tunnel_unreachable" } else { "tunnel_protocol" };
        assert_eq!(crate::reason::Cause::from(&error).as_str(), expected, "{error}");
    }
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for settings in [http(gone, None), socks(gone)] {
        let tunnel = tunnel(settings, SOON);
        let error = failure(&tunnel).await;
        assert!(matches!(&error, TunnelError::Unreachable(why) if why.contains("refused")));
        assert_eq!(tunnel.state(), TunnelState::Unreachable);
    }
}

#[tokio::test]
async fn a_hop_that_speaks_before_it_is_asked_is_not_believed() {
    let (mut near, mut far) = tokio::io::duplex(64);
    far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let error = http::connect(&mut near, private(), None).await.unwrap_err();
    assert!(matches!(error, TunnelError::Protocol(_)), "{error}");
    // All of it together: the request's answer is there before the request.
    let hop = Scripted::new(|mut stream| async move {
        stream.write_all(&[5, 0, 5, 0, 0, 1, 127, 0, 0, 1, 0, 80]).await?;
        echo(stream).await
    })
    .await;
    let error = failure(&tunnel(socks(hop.address), SOON)).await;
    assert!(matches!(error, TunnelError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn socks_is_asked_for_the_address_in_bytes() {
    let (tell, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let hop = Scripted::new(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).await?;
            stream.write_all(&[5, 2]).await?;
            let mut credentials = [0; 15];
            stream.read_exact(&mut credentials).await?;
            stream.write_all(&[1, 0]).await?;
            let mut request = vec![0; 4];
            stream.read_exact(&mut request).await?;
            request.resize(if request[3] == 1 { 10 } else { 22 }, 0);
            stream.read_exact(&mut request[4..]).await?;
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
            tell.send((greeting, credentials, request)).unwrap();
            echo(stream).await
        }
    })
    .await;
    let credentials = Some(("gateway".to_owned(), Secret::new(b"hunt3".to_vec())));
    let tunnel =
        tunnel(Settings::Socks5(SocksTunnel { proxy: at(hop.address), credentials }), SOON);
    let mut v6 = vec![5, 1, 0, 4, 0xfd, 0, 0, 0x20];
    v6.extend([0; 11]);
    v6.extend([5, 1, 0xbb]);
    for (to, expected) in
        [(private(), vec![5, 1, 0, 1, 10, 20, 0, 5, 0x20, 0xfb]), (private_v6(), v6)]
    {
        let stream = open(&tunnel, to).await.unwrap();
        carries(stream, b"").await;
        let (greeting, credentials, request) = requests.recv().await.unwrap();
        assert_eq!(greeting, [5, 2, 0, 2]);
        assert_eq!(&credentials, b"\x01\x07gateway\x05hunt3");
        assert_eq!(request, expected);
    }
}

#[tokio::test]
async fn the_stream_begins_right_behind_the_bound_address_of_any_kind() {
    let mut name = vec![5, 0, 0, 3, 255];
    name.extend([b'a'; 255]);
    name.extend([0, 80]);
    let v6 = [&[5, 0, 0, 4][..], &[0; 18]].concat();
    for answer in [vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0], vec![5, 0, 0, 3, 0, 0, 80], v6, name] {
        let hop = Scripted::socks([&answer[..], b"early"].concat()).await;
        let stream = open(&tunnel(socks(hop.address), SOON), private()).await.unwrap();
        carries(stream, b"early").await;
    }
}

#[tokio::test]
async fn every_reply_has_its_meaning() {
    use TunnelError::{BeyondUnreachable, Denied, Protocol, Unreachable};
    let same = std::mem::discriminant::<TunnelError>;
    let rows: [(&[u8], TunnelError); 13] = [
        (&[5, 1], BeyondUnreachable(String::new())),
        (&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0], Denied(String::new())),
        (&[5, 3], BeyondUnreachable(String::new())),
        (&[5, 4], BeyondUnreachable(String::new())),
        (&[5, 5], BeyondUnreachable(String::new())),
        (&[5, 6], BeyondUnreachable(String::new())),
        (&[5, 7], Protocol(String::new())),
        (&[5, 8], BeyondUnreachable(String::new())),
        (&[5, 9], Protocol(String::new())),
        (&[4, 0x5a], Protocol(String::new())),
        (&[5, 0, 1, 1], Protocol(String::new())),
        (&[5, 0, 0, 2], Protocol(String::new())),
        (b"HTTP/1.1 400", Protocol(String::new())),
    ];
    for (answer, expected) in rows {
        let hop = Scripted::socks(answer).await;
        let error = failure(&tunnel(socks(hop.address), SOON)).await;
        assert_eq!(same(&error), same(&expected), "{answer:?}: {error}");
    }
    // Cut short.
    for answer in [&[][..], &[5], &[5, 0, 0], &[5, 0, 0, 1, 0], &[5, 0, 0, 3, 255, b'a']] {
        let hop = Scripted::new(move |mut stream| async move {
            stream.read_exact(&mut [0; 3]).await?;
            stream.write_all(&[5, 0]).await?;
            stream.read_exact(&mut [0; 10]).await?;
            stream.write_all(answer).await
        })
        .await;
        let error = failure(&tunnel(socks(hop.address), SOON)).await;
        assert_eq!(same(&error), same(&Unreachable(String::new())), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn methods_that_do_not_fit_are_told_apart() {
    let with = Some(("gateway".to_owned(), Secret::new(b"hunt3".to_vec())));
    let rows: [(&[u8], bool, &str); 8] = [
        (&[5, 0xff], false, "tunnel_auth"),
        (&[5, 0xff], true, "tunnel_auth"),
        (&[5, 2], false, "tunnel_protocol"),
        (&[5, 1], true, "tunnel_protocol"),
        (&[4, 0], false, "tunnel_protocol"),
        (&[5, 2, 1, 1], true, "tunnel_auth"),
        (&[5, 2, 5, 0], true, "tunnel_protocol"),
        (b"SSH-2.0-OpenSSH", false, "tunnel_protocol"),
    ];
    for (answer, shows, expected) in rows {
        let hop = Scripted::new(move |mut stream| async move {
            let length = if shows { 4 } else { 3 };
            stream.read_exact(&mut vec![0; length]).await?;
            let (method, rest) = answer.split_at(2);
            stream.write_all(method).await?;
            if shows && rest.len() == 2 {
                stream.read_exact(&mut [0; 15]).await?;
            }
            stream.write_all(rest).await?;
            echo(stream).await
        })
        .await;
        let credentials = with.clone().filter(|_| shows);
        let settings = Settings::Socks5(SocksTunnel { proxy: at(hop.address), credentials });
        let tunnel = tunnel(settings, SOON);
        let error = failure(&tunnel).await;
        let cause = crate::reason::Cause::from(&error).as_str();
        assert_eq!(cause, expected, "{answer:?}: {error}");
        assert!(!error.to_string().contains("hunt3"));
        // It stands, and is of no use; whoever tries is told so, and at once.
        assert_eq!(tunnel.state(), TunnelState::Unreachable);
        assert!(tunnel.core.health.known().down.is_none());
    }
}

/// Waits until what a tunnel is known to be is this.
async fn until(tunnel: &Tunnel, state: TunnelState) {
    let turned = async {
        while tunnel.state() != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, turned).await.expect("the tunnel's state is noticed");
}

#[tokio::test]
async fn a_hop_that_is_down_fails_at_once_and_comes_back_by_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let means = means(SOON);
    let all = tunnels(&means, [("acme", socks(address))], None);
    let tunnel = Arc::clone(all.get("acme").unwrap());
    assert_eq!(tunnel.state(), TunnelState::Unknown);
    assert_eq!(tunnel.status().last_healthy_at, None);
    all.enforce(None, &means.metrics);
    until(&tunnel, TunnelState::Unreachable).await;
    assert!(tunnel.down().is_some());
    let text = means.metrics.render().unwrap();
    assert!(text.contains("egress_tunnel_up{tunnel=\"acme\"} 0"), "{text}");
    // What cannot be reached is not even tried.
    tokio::select! {
        biased;
        opened = open(&tunnel, private()) => {
            assert!(matches!(opened, Err(TunnelError::Unreachable(_))));
        }
        () = std::future::ready(()) => panic!("it waits"),
    }

    let listener = TcpListener::bind(address).await.unwrap();
    let _hop = Scripted::on(listener, |mut stream| async move {
        stream.read_exact(&mut [0; 3]).await?;
        stream.write_all(&[5, 0]).await?;
        stream.read_exact(&mut [0; 10]).await?;
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        echo(stream).await
    });
    until(&tunnel, TunnelState::Healthy).await;
    carries(open(&tunnel, private()).await.unwrap(), b"").await;
    let status = tunnel.status();
    assert_eq!(status.tunnel_url, format!("socks5://{address}"));
    assert!(status.last_healthy_at.is_some() && status.round_trip_ms.is_some_and(|ms| ms > 0.0));
    assert_eq!((status.bytes_to_target, status.bytes_to_client, status.open_streams), (4, 4, 0));
    let text = means.metrics.render().unwrap();
    assert!(text.contains("egress_tunnel_up{tunnel=\"acme\"} 1"), "{text}");
}

/// A hop that goes silent: what is open stays open, and whoever comes is not answered.
#[tokio::test]
async fn a_stream_that_is_bound_ends_with_its_tunnel_and_no_other_does() {
    let (mute, is_mute) = tokio::sync::watch::channel(false);
    let hop = Scripted::new(move |mut stream| {
        let is_mute = is_mute.clone();
        async move {
            if *is_mute.borrow() {
                return std::future::pending().await;
            }
            stream.read_exact(&mut [0; 3]).await?;
            stream.write_all(&[5, 0]).await?;
            stream.read_exact(&mut [0; 10]).await?;
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
            echo(stream).await
        }
    })
    .await;
    let tunnel = tunnel(socks(hop.address), Duration::from_millis(500));
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(open(&tunnel, private()).await.unwrap());
    }
    let [mut until_down, mut until_lost, mut carrying, free] =
        <[TunnelStream; 4]>::try_from(streams).unwrap();
    until_down.until_down();
    until_lost.until_lost();
    carrying.until_lost();

    mute.send_replace(true);
    // Side by side they are one failure.
    let failures = tokio::join!(failure(&tunnel), failure(&tunnel));
    assert_eq!(failures, (TunnelError::Timeout, TunnelError::Timeout));
    let broken = |read: io::Result<u8>| {
        let error = read.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let failure = PassageError::of_stream(&error).unwrap();
        assert_eq!((&*failure.tunnel, &failure.error), ("acme", &TunnelError::Timeout));
    };
    broken(timeout(SOON, until_down.read_u8()).await.unwrap());
    carries(carrying, b"").await;

    let mut waiting = Box::pin(until_lost.read_u8());
    let still = timeout(Duration::ZERO, &mut waiting).await.is_err();
    assert!(still, "one failure is no loss");
    assert_eq!(failure(&tunnel).await, TunnelError::Timeout);
    broken(timeout(SOON, waiting).await.unwrap());
    broken(timeout(SOON, until_lost.read_u8()).await.unwrap());
    carries(free, b"").await;

    mute.send_replace(false);
    let mut back = open(&tunnel, private()).await.unwrap();
    back.until_lost();
    assert_eq!(failure_after(&mute, &tunnel).await, TunnelError::Timeout);
    carries(back, b"").await;
}

/// The far end is silent for one attempt, and back for the next.
async fn failure_after(mute: &tokio::sync::watch::Sender<bool>, tunnel: &Tunnel) -> TunnelError {
    mute.send_replace(true);
    let error = failure(tunnel).await;
    mute.send_replace(false);
    error
}

#[tokio::test]
async fn a_silent_target_does_not_take_the_tunnel_from_others() {
    let hop = Scripted::new(|mut stream| async move {
        let asked = head(&mut stream).await?;
        if asked.contains("10.20.0.5") {
            return std::future::pending().await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        echo(stream).await
    })
    .await;
    let means = means(Duration::from_millis(200));
    let all = tunnels(&means, [("acme", http(hop.address, None))], None);
    all.enforce(None, &means.metrics);
    let tunnel = all.get("acme").unwrap();
    assert_eq!(failure(tunnel).await, TunnelError::Timeout);
    carries(open(tunnel, private_v6()).await.unwrap(), b"").await;
}

#[tokio::test]
async fn a_reload_keeps_what_has_not_changed_and_lets_the_rest_drain() {
    let hop = Scripted::socks([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let other = Scripted::socks([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let means = means(SOON);
    let first = tunnels(
        &means,
        [
            ("kept", socks(hop.address)),
            ("changed", socks(hop.address)),
            ("gone", socks(hop.address)),
        ],
        None,
    );
    first.enforce(None, &means.metrics);
    let streams = [
        open(first.get("changed").unwrap(), private()).await.unwrap(),
        open(first.get("gone").unwrap(), private()).await.unwrap(),
    ];
    let second = tunnels(
        &means,
        [
            ("kept", socks(hop.address)),
            ("changed", socks(other.address)),
            ("new", socks(hop.address)),
        ],
        Some(&first),
    );
    assert!(Arc::ptr_eq(first.get("kept").unwrap(), second.get("kept").unwrap()));
    assert!(!Arc::ptr_eq(first.get("changed").unwrap(), second.get("changed").unwrap()));
    second.enforce(Some(&first), &means.metrics);
    let former = Arc::clone(first.get("gone").unwrap());
    drop(first);
    let mut watcher = std::mem::take(&mut *former.watcher.lock().unwrap());
    assert!(watcher.join_next().await.unwrap().unwrap_err().is_cancelled());
    for stream in streams {
        carries(stream, b"").await;
    }
    for name in ["kept", "changed", "new"] {
        until(second.get(name).unwrap(), TunnelState::Healthy).await;
    }
    let text = means.metrics.render().unwrap();
    assert!(!text.contains("tunnel=\"gone\""), "{text}");
    // A secret that changed in its file is another tunnel.
    let with = |password: &[u8]| {
        let credentials = Some(("gateway".to_owned(), Secret::new(password.to_vec())));
        Settings::Socks5(SocksTunnel { proxy: at(hop.address), credentials })
    };
    let third = tunnels(&means, [("kept", with(b"one"))], Some(&second));
    let fourth = tunnels(&means, [("kept", with(b"two"))], Some(&third));
    assert!(!Arc::ptr_eq(third.get("kept").unwrap(), fourth.get("kept").unwrap()));
}

#[tokio::test]
async fn the_next_tunnel_takes_over_and_the_most_telling_failure_is_told() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let denies = Scripted::http("HTTP/1.1 403 no\r\n\r\n").await;
    let carries_ = Scripted::http("HTTP/1.1 200 OK\r\n\r\n").await;
    let means = means(SOON);
    let all = tunnels(
        &means,
        [
            ("gone", socks(gone)),
            ("denies", http(denies.address, None)),
            ("carries", http(carries_.address, None)),
        ],
        None,
    );
    let passage = all.passage(["gone", "denies", "carries"]).unwrap();
    let passed = passage.open_any(vec![private()]).await.unwrap();
    assert_eq!((&*passed.tunnel, passed.address), ("carries", private()));
    carries(passed.stream, b"").await;
    let failure = all.passage(["gone", "denies"]).unwrap().open_any(vec![private()]).await;
    let failure = failure.unwrap_err();
    assert_eq!(&*failure.tunnel, "denies");
    assert!(matches!(failure.error, TunnelError::Denied(_)));
    // What is known to be down comes last.
    assert_eq!(&*passage.first().unwrap(), "denies");
    assert!(all.passage(["gone", "nowhere"]).is_none() && all.passage([]).is_none());
}

/// A stream of a tunnel's own, as WireGuard and the connector have.
#[derive(Debug)]
struct Own(tokio::io::DuplexStream, Arc<std::sync::atomic::AtomicBool>);

impl Channel for Own {
    fn reset(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

macro_rules! through {
    ($trait:ident { $($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)* }) => {
        impl tokio::io::$trait for Own {
            $(fn $name(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                $($arg: $type),*
            ) -> std::task::Poll<io::Result<$out>> {
                std::pin::Pin::new(&mut self.0).$name(cx, $($arg),*)
            })*
        }
    };
}

through!(AsyncRead { poll_read(buffer: &mut tokio::io::ReadBuf<'_>) -> (); });
through!(AsyncWrite {
    poll_write(bytes: &[u8]) -> usize;
    poll_flush() -> ();
    poll_shutdown() -> ();
});

#[tokio::test]
async fn a_stream_of_a_tunnels_own_is_carried_counted_and_reset() {
    let (near, mut far) = tokio::io::duplex(64);
    let was_reset = Arc::default();
    let meter = Arc::new(Meter::new(&Metrics::new().unwrap(), "own"));
    let own = Box::new(Own(near, Arc::clone(&was_reset)));
    let mut stream =
        TunnelStream::new(stream::Link::Channel(own), b"early"[..].into(), meter.open(), None);
    stream.write_all(b"up").await.unwrap();
    far.read_exact(&mut [0; 2]).await.unwrap();
    far.write_all(b"down").await.unwrap();
    let mut read = [0; 9];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"earlydown");
    assert_eq!((meter.open_streams(), meter.bytes_to_target(), meter.bytes_to_client()), (1, 2, 9));
    stream.reset();
    assert!(was_reset.load(Ordering::Relaxed));
    assert_eq!(meter.open_streams(), 0);
}
