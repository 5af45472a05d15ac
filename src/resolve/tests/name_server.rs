//! A name server on loopback that says what a test wants it to say.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
}

/// One question, its name in lower case and with its trailing dot.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) kind: RecordType,
    pub(super) over: Over,
    pub(super) from: IpAddr,
}

/// What to say.
pub(super) enum Say {
    Nothing,
    Answers(Vec<Record>),
    /// The code, and an authority section that allows remembering it for so many seconds.
    None(ResponseCode, Option<u32>),
    CutShort,
    /// Answers and additional records.
    More(Vec<Record>, Vec<Record>),
    /// These messages in this order, each made from the right one.
    Altered(Vec<Record>, Vec<fn(&mut Message)>),
}

type Script = Arc<dyn Fn(&Question) -> Say + Send + Sync>;

pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Question>>>,
    _tasks: JoinSet<()>,
}

impl NameServer {
    pub(super) async fn start(script: impl Fn(&Question) -> Say + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::default();
        let desk = Desk { script: Arc::new(script), asked: Arc::clone(&asked) };
        let mut tasks = JoinSet::new();
        tasks.spawn(desk.clone().serve_udp(udp));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, from)) = tcp.accept().await {
                connections.spawn(desk.clone().serve_stream(stream, from.ip()));
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    pub(super) fn asked(&self) -> Vec<Question> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until so many questions have come.
    pub(super) async fn has_been_asked(&self, count: usize) {
        while self.asked().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What answers, whatever the question came over.
#[derive(Clone)]
pub(super) struct Desk {
    script: Script,
    asked: Arc<Mutex<Vec<Question>>>,
}

impl Desk {
    pub(super) fn new(script: impl Fn(&Question) -> Say + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), asked: Arc::default() }
    }

    async fn serve_udp(self, socket: UdpSocket) {
        let mut buffer = [0; 4096];
        // a forger who knows everything but cannot send from the server's address is always there
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let request = Message::from_vec(&buffer[..length]).unwrap();
            let mut forged = response_to(&request, &request.queries[0]);
            forged.metadata.response_code = ResponseCode::NotImp;
            stranger.send_to(&forged.to_vec().unwrap(), from).await.unwrap();
            for message in self.answer(&buffer[..length], Over::Udp, from.ip()) {
                socket.send_to(&message, from).await.unwrap();
            }
        }
    }

    pub(super) async fn serve_stream(
        self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        from: IpAddr,
    ) {
        while let Ok(length) = stream.read_u16().await {
            let mut buffer = vec![0; length.into()];
            stream.read_exact(&mut buffer).await.unwrap();
            for message in self.answer(&buffer, Over::Tcp, from) {
                stream.write_u16(message.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&message).await.unwrap();
            }
        }
    }

    pub(super) fn answer(&self, request: &[u8], over: Over, from: IpAddr) -> Vec<Vec<u8>> {
        let request = Message::from_vec(request).unwrap();
        let [query] = request.queries.as_slice() else { panic!("{request}") };
        let name = query.name.to_lowercase().to_ascii();
        let question = Question { name, kind: query.query_type, over, from };
        self.asked.lock().unwrap().push(question.clone());
        let response = response_to(&request, query);
        let messages = match (self.script)(&question) {
            Say::Nothing => vec![],
            Say::Answers(records) => vec![with(response, records)],
            Say::More(records, more) => {
                let mut response = with(response, records);
                response.add_additionals(more);
                vec![response]
            }
            Say::None(code, ttl) => {
                let mut response = response;
                response.metadata.response_code = code;
                if let Some(ttl) = ttl {
                    response.add_authority(soa(ttl));
                }
                vec![response]
            }
            Say::CutShort => {
                let mut response = response;
                response.metadata.truncation = true;
                vec![response]
            }
            Say::Altered(records, changes) => {
                let right = with(response, records);
                let altered = changes.into_iter().map(|change| {
                    let mut message = right.clone();
                    change(&mut message);
                    message
                });
                altered.collect()
            }
        };
        // what is too large for UDP is cut short, as the client's EDNS payload size wants it
        let encoded = messages.into_iter().map(|message| match message.to_vec().unwrap() {
            bytes if over == Over::Udp && bytes.len() > usize::from(request.max_payload()) => {
                message.truncate().to_vec().unwrap()
            }
            bytes => bytes,
        });
        encoded.collect()
    }
}

fn response_to(request: &Message, query: &Query) -> Message {
    let mut response = Message::response(request.id, OpCode::Query);
    response.metadata.recursion_desired = true;
    response.metadata.recursion_available = true;
    response.add_query(query.clone());
    response
}

fn with(mut response: Message, records: Vec<Record>) -> Message {
    response.add_answers(records);
    response
}

fn soa(ttl: u32) -> Record {
    let name = || named("ns.example.");
    let soa = SOA::new(name(), name(), 1, 3600, 600, 86_400, ttl);
    Record::from_rdata(named("example."), ttl, RData::SOA(soa))
}

fn named(name: &str) -> Name {
    Name::from_ascii(name).unwrap()
}

/// An address record; its type is that of the address.
pub(super) fn address(name: &str, ip: &str, ttl: u32) -> Record {
    let data = match ip.parse().unwrap() {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(named(name), ttl, data)
}

pub(super) fn alias(name: &str, target: &str, ttl: u32) -> Record {
    Record::from_rdata(named(name), ttl, RData::CNAME(CNAME(named(target))))
}

/// Both families: one address each.
pub(super) fn usual(question: &Question) -> Say {
    match question.kind {
        RecordType::A => Say::Answers(vec![address(&question.name, "192.0.2.1", 60)]),
        RecordType::AAAA => Say::Answers(vec![address(&question.name, "2001:db8::1", 60)]),
        other => panic!("asked for {other}"),
    }
}
