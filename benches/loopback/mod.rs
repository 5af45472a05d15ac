//! What stands on loopback around a gateway that is measured: its name server, its targets'
//! certificate, and the process that it runs in.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use hickory_proto::{
    op::Message,
    rr::{RData, Record, RecordType, rdata::A},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::net::UdpSocket;

/// Clock ticks of `/proc/PID/stat` in a second, as on every Linux.
const TICKS: f64 = 100.0;

/// TLS for a name, by an authority of its own in `ca.pem`.
pub(crate) fn certificate(folder: &Path, name: &str) -> ServerConfig {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
}

/// Says that every name is 127.0.0.1.
pub(crate) async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let asked = Message::from_vec(buffer.get(..length).unwrap()).unwrap();
            let query = asked.queries.first().unwrap().clone();
            let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
            reply.metadata.recursion_available = true;
            if query.query_type() == RecordType::A {
                let data = RData::A(A([127, 0, 0, 1].into()));
                reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
            }
            reply.add_query(query);
            socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    address
}

/// Runs the program with a configuration.
pub(crate) fn serve(folder: &Path, file: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_egress-gateway"))
        .args(["serve", "--config"])
        .arg(file)
        .env_clear()
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Processor time of a process, its own and the kernel's for it.
pub(crate) fn cpu_seconds(child: &Child) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // Behind the name, which may hold anything: utime and stime are the 12th and the 13th.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks = rest.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS
}
