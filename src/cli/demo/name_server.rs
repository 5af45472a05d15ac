//! A name server for the demo's names: it says what a scene needs, which no honest one would.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use tokio::{net::UdpSocket, task::JoinSet};

/// Names in lower case without a trailing dot, and all addresses of each.
pub(super) type Zone = HashMap<&'static str, Vec<IpAddr>>;

/// How long answers may be remembered, in seconds: longer than the demo takes.
const TTL_SECONDS: u32 = 60;

/// Largest question that is read, in bytes: those of a resolver have some fifty.
const QUESTION_BYTES_MAX: usize = 4096;

/// A running name server on loopback; it ends when dropped.
pub(super) struct NameServer {
    /// Where it listens, over UDP.
    pub(super) address: SocketAddr,
    _task: JoinSet<()>,
}

impl NameServer {
    /// Serves a zone. Names that it does not have do not exist.
    pub(super) async fn start(zone: Zone) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut buffer = [0; QUESTION_BYTES_MAX];
            // An error belongs to one datagram: whoever sent it will ask again, or give up.
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                let question = buffer.get(..length).unwrap_or_default();
                if let Some(answer) = answer(&zone, question) {
                    let _sent = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(Self { address, _task: task })
    }
}

/// The answer to a datagram; `None` where it is no question.
fn answer(zone: &Zone, datagram: &[u8]) -> Option<Vec<u8>> {
    let request = Message::from_vec(datagram).ok()?;
    let [query] = request.queries.as_slice() else { return None };
    let mut response = Message::response(request.id, OpCode::Query);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_query(query.clone());
    let name = query.name.to_lowercase().to_ascii();
    match zone.get(name.trim_end_matches('.')) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses) => {
            let data = addresses.iter().map(|address| match address {
                IpAddr::V4(v4) => (RecordType::A, RData::A(A(*v4))),
                IpAddr::V6(v6) => (RecordType::AAAA, RData::AAAA(AAAA(*v6))),
            });
            let asked = data.filter(|(kind, _)| *kind == query.query_type);
            let record = |(_, data)| Record::from_rdata(query.name.clone(), TTL_SECONDS, data);
            response.add_answers(asked.map(record));
        }
    }
    response.to_vec().ok()
}
