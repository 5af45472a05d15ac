//! A DNS server that says what a test tells it, over UDP and TCP.

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
};

/// What is said about one name.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Its addresses, in this order, with this time to live in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// It is another name for this one, which is then answered in the same message.
    Alias(String),
    /// The name exists, and has no address.
    Empty,
    /// `NXDOMAIN`.
    NoSuchName,
    /// `SERVFAIL`.
    Failure,
    /// `REFUSED`.
    Refused,
    /// Nothing at all.
    Silence,
    /// Over UDP a truncated answer, over TCP these addresses.
    OnlyOverTcp(Vec<IpAddr>),
    /// These addresses, with a time to live of zero, to who asks in this way; nothing to others.
    Heard(Transport, Vec<IpAddr>),
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A running server; answers can be changed at any time.
#[derive(Clone)]
pub(crate) struct Dns {
    zone: Arc<Zone>,
    _tasks: Arc<JoinSet<()>>,
}

struct Zone {
    answers: Mutex<HashMap<String, Answer>>,
    asked: Mutex<Vec<(String, RecordType, SocketAddr)>>,
    /// While `true`, answers are held back.
    held: watch::Sender<bool>,
}

impl Dns {
    /// Listens on this address, UDP and TCP.
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let zone = Arc::new(Zone {
            answers: Mutex::default(),
            asked: Mutex::default(),
            held: watch::Sender::new(false),
        });
        let udp = Arc::new(UdpSocket::bind(address).await.unwrap());
        let tcp = TcpListener::bind(address).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&zone)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&zone)));
        Self { zone, _tasks: Arc::new(tasks) }
    }

    /// Says `answer` about `name` from now on.
    pub(crate) fn answer(&self, name: &str, answer: Answer) {
        self.zone.answers.lock().unwrap().insert(name.to_ascii_lowercase(), answer);
    }

    /// Gives `name` these addresses, with a time to live of zero: the next decision asks again.
    pub(crate) fn addresses(&self, name: &str, addresses: &[IpAddr]) {
        self.answer(name, Answer::Addresses(addresses.to_vec(), 0));
    }

    /// How often `name` was asked for, A and AAAA together.
    pub(crate) fn queries(&self, name: &str) -> usize {
        self.zone.asked.lock().unwrap().iter().filter(|(asked, ..)| asked == name).count()
    }

    /// How often `name` was asked for with this type.
    pub(crate) fn queries_of(&self, name: &str, kind: RecordType) -> usize {
        let asked = self.zone.asked.lock().unwrap();
        asked.iter().filter(|(one, one_kind, _)| one == name && *one_kind == kind).count()
    }

    /// Every name asked for so far, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.zone.asked.lock().unwrap().iter().map(|(name, ..)| name.clone()).collect()
    }

    /// The addresses from which questions came.
    pub(crate) fn askers(&self) -> Vec<IpAddr> {
        self.zone.asked.lock().unwrap().iter().map(|(.., peer)| peer.ip()).collect()
    }

    /// Holds all answers back until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.zone.held.send_replace(true);
    }

    /// Lets held answers go.
    pub(crate) fn release(&self) {
        self.zone.held.send_replace(false);
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, zone: Arc<Zone>) {
    let mut tasks = JoinSet::new();
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let question = buffer[..length].to_vec();
        let (socket, zone) = (Arc::clone(&socket), Arc::clone(&zone));
        tasks.spawn(async move {
            if let Some(answer) = zone.reply(&question, peer, false).await {
                drop(socket.send_to(&answer, peer).await);
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>) {
    let mut tasks = JoinSet::new();
    while let Ok((mut stream, peer)) = listener.accept().await {
        let zone = Arc::clone(&zone);
        tasks.spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; length.into()];
                if stream.read_exact(&mut question).await.is_err() {
                    return;
                }
                if let Some(answer) = zone.reply(&question, peer, true).await {
                    let mut framed = u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
                    framed.extend(answer);
                    drop(stream.write_all(&framed).await);
                }
            }
        });
    }
}

impl Zone {
    async fn reply(&self, question: &[u8], peer: SocketAddr, tcp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        self.asked.lock().unwrap().push((name.clone(), query.query_type(), peer));
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.ok()?;

        let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
        reply.metadata.recursion_desired = question.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_query(query.clone());
        let (code, records) = self.look_up(&name, query.name().clone(), query.query_type(), tcp)?;
        reply.metadata.response_code = code;
        match records {
            Some(records) => drop(reply.add_answers(records)),
            None => reply.metadata.truncation = true,
        }
        reply.to_vec().ok()
    }

    /// `None` for silence; no records for a truncated answer.
    fn look_up(
        &self,
        name: &str,
        owner: Name,
        kind: RecordType,
        tcp: bool,
    ) -> Option<(ResponseCode, Option<Vec<Record>>)> {
        let answers = self.answers.lock().unwrap();
        let (mut name, mut owner, mut records) = (name.to_owned(), owner, Vec::new());
        // An alias loop ends here, as it would with a real server.
        for _ in 0..16 {
            match answers.get(&name).cloned().unwrap_or(Answer::NoSuchName) {
                Answer::Addresses(addresses, ttl) => {
                    records.extend(of_kind(&owner, &addresses, kind, ttl));
                    return Some((ResponseCode::NoError, Some(records)));
                }
                Answer::OnlyOverTcp(addresses) => {
                    records.extend(of_kind(&owner, &addresses, kind, 0));
                    return Some((ResponseCode::NoError, tcp.then_some(records)));
                }
                Answer::Heard(transport, addresses) => {
                    records.extend(of_kind(&owner, &addresses, kind, 0));
                    let heard = tcp == (transport == Transport::Tcp);
                    return heard.then_some((ResponseCode::NoError, Some(records)));
                }
                Answer::Alias(next) => {
                    let next_owner = Name::from_ascii(format!("{next}.")).unwrap();
                    let data = RData::CNAME(CNAME(next_owner.clone()));
                    records.push(Record::from_rdata(owner, 0, data));
                    (name, owner) = (next, next_owner);
                }
                Answer::Empty => return Some((ResponseCode::NoError, Some(records))),
                Answer::NoSuchName => return Some((ResponseCode::NXDomain, Some(records))),
                Answer::Failure => return Some((ResponseCode::ServFail, Some(Vec::new()))),
                Answer::Refused => return Some((ResponseCode::Refused, Some(Vec::new()))),
                Answer::Silence => return None,
            }
        }
        Some((ResponseCode::NoError, Some(records)))
    }
}

fn of_kind(owner: &Name, addresses: &[IpAddr], kind: RecordType, ttl: u32) -> Vec<Record> {
    let data = addresses.iter().filter_map(|address| match (address, kind) {
        (IpAddr::V4(v4), RecordType::A) => Some(RData::A(A(*v4))),
        (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(AAAA(*v6))),
        _ => None,
    });
    data.map(|data| Record::from_rdata(owner.clone(), ttl, data)).collect()
}
