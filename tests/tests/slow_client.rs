//! Clients that open watches and then read nothing, while thousands of changes go by.
//!
//! ```text
//!  writers ── an address a time ──▶ control plane ──▶ readers: each change, in order, in time
//!                                        │
//!                                        ├──▶ stuck: a node that leaves its stream unread, and
//!                                        └──▶ two observers, 100 watches each, that leave their sockets unread
//!                                             memory stays; ended with a reason
//! ```
//!
//! A stream that is left unread ends its connection after `--max-lag`. A socket that is left unread answers
//! no pings either; whichever is noticed first ends it.

#![cfg(test)]

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_tests::client::{self, Follower, Identities};
use loden_tests::deployment::{ControlPlane, Deployment};
use loden_tests::wait;
use loden_transport::{Bundle, control_plane_name};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Channel;

const NETWORK: &str = "blue";
const WRITERS: u16 = 40;
/// Addresses of each writer, one after the other.
const ADDRESSES: u16 = 1500;
/// Between two changes of one writer.
const PACE: Duration = Duration::from_millis(40);
const READERS: usize = 3;
const OBSERVERS: usize = 2;
const WATCHES: usize = 100;
/// Before anybody is stuck.
const CALM: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(60);
/// Changes come together for at most a second; the rest is a busy machine's.
const PROMPT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_ended_with_a_reason_and_costs_the_others_nothing()
-> anyhow::Result<()> {
    let flags = ["--settle", "0s", "--heartbeat", "500ms", "--max-lag", "8s"];
    let deployment = Deployment::start("slow", &flags).await?;
    let control = &deployment.control;
    let identities = Identities::of(control, &deployment.lab.directory().join("identities"))?;
    let admin_identity = identities.admin("operator")?;
    let admin = control.channel(&admin_identity).await?;
    client::create_network(&admin, NETWORK, "10.1.0.0/16", 24).await?;
    let stuck_node = identities.node("stuck")?;
    client::acquire(&control.channel(&stuck_node).await?, NETWORK, 99, client::endpoint(60_000)).await?;
    let process = control.process.as_ref().context("it does not run")?;

    let flow = Flow::begin(&deployment, &identities).await?;
    tokio::time::sleep(CALM).await;
    let (calm_changes, calm_bytes, before) = (flow.changes(), flow.received(), resident(process.pid())?);

    let began = Instant::now();
    let mut stuck = Vec::new();
    for _ in 0..OBSERVERS {
        stuck.push(Stuck::open(&deployment, &admin_identity, "", WATCHES, Unread::Socket).await?);
    }
    let instance = format!("{:032x}", 99);
    stuck.push(Stuck::open(&deployment, &stuck_node, &instance, 1, Unread::Stream).await?);
    let most = Cell::new(before);
    let ended = wait::until("all stuck clients to be ended", PATIENCE, async || {
        flow.check()?;
        most.set(most.get().max(resident(process.pid())?));
        let (_, metrics) = control.get("/metrics").await?;
        let ended = ended(&metrics);
        ensure!(ended.0 + ended.1 == stuck.len(), "{ended:?} of {} have been ended", stuck.len());
        anyhow::Ok(ended)
    });
    let (slow, silent) = ended.await?;
    ensure!(slow > 0, "none was ended for leaving its stream unread");
    let took = began.elapsed();
    let (changes, bytes) = (flow.changes() - calm_changes, flow.received() - calm_bytes);

    // What each of them would have cost if what it does not read were kept for it.
    let unbounded = bytes * (OBSERVERS * WATCHES + 1);
    let growth = most.get().saturating_sub(before);
    println!(
        "{calm_changes} changes in peace, {changes} beside {} stuck watches until all were ended ({slow} slow, \
         {silent} silent) in {took:?}; resident {} KiB + {} KiB, a queue for each would hold {} KiB",
        OBSERVERS * WATCHES + 1,
        before >> 10,
        growth >> 10,
        unbounded >> 10
    );
    ensure!(changes > 2000, "only {changes} changes: this proves little");
    ensure!(growth < unbounded / 3, "{growth} bytes of {unbounded}");

    let node = v1::GetNodeRequest { name: "nodes/stuck".to_owned() };
    let node = NodeServiceClient::new(admin.clone()).get_node(node).await?.into_inner();
    ensure!(!node.connected && node.disconnect_reason.starts_with("the client has not read for"), "{node:?}");
    process.wait_for_log("the client has not read for", PATIENCE).await?;
    for client in stuck {
        client.was_reset().await?;
    }

    let seen = flow.end(&admin).await?;
    let calm = latency(&seen, |at| at < began);
    let busy = latency(&seen, |at| at >= began);
    println!("a change reached a reader within (median, 99 %, longest): {calm:?}, then {busy:?}");
    ensure!(calm.2 < PROMPT && busy.2 < PROMPT, "{calm:?}, {busy:?}");
    // Nobody waits for those who do not read.
    ensure!(busy.1 < (calm.1 * 4).max(Duration::from_millis(900)), "{calm:?}, {busy:?}");
    Ok(())
}

/// How many connections were ended for leaving a stream unread, and for not answering.
fn ended(metrics: &str) -> (usize, usize) {
    let of = |reason: &str| {
        let name = format!("loden_connections_ended_total{{reason=\"{reason}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok());
        value.unwrap_or_default()
    };
    (of("slow"), of("silent"))
}

/// Memory of a process in bytes (proc(5), VmRSS).
fn resident(pid: u32) -> anyhow::Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// One change of one writer: when it was asked for.
#[derive(Clone, Copy, Debug)]
struct Change {
    writer: usize,
    number: u16,
    at: Instant,
}

/// Writers that write and readers that read, until they are told to end.
struct Flow {
    stop: watch::Sender<bool>,
    changes: Arc<Mutex<Vec<Change>>>,
    writers: Vec<JoinHandle<anyhow::Result<()>>>,
    readers: Vec<Reading>,
}

impl Flow {
    async fn begin(deployment: &Deployment, identities: &Identities) -> anyhow::Result<Self> {
        let control = &deployment.control;
        let stop = watch::Sender::new(false);
        let changes = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        for number in 0..READERS {
            let channel = control.channel(&identities.node(&format!("r{number}"))?).await?;
            let instance = 100 + number as u128;
            client::acquire(&channel, NETWORK, instance, client::endpoint(61_000 + number as u16)).await?;
            readers.push(Reading::begin(channel, Follower::node(NETWORK, instance)).await?);
        }
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let channel = control.channel(&identities.node(&name(writer))?).await?;
            let (stop, changes) = (stop.subscribe(), Arc::clone(&changes));
            writers.push(tokio::spawn(write(writer, channel, stop, changes)));
        }
        Ok(Self { stop, changes, writers, readers })
    }

    fn changes(&self) -> usize {
        self.changes.lock().unwrap().len()
    }

    /// Bytes that the first reader has received.
    fn received(&self) -> usize {
        self.readers[0].received()
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.writers.iter().any(JoinHandle::is_finished), "a writer has ended");
        ensure!(!self.readers.iter().any(|reader| reader.task.is_finished()), "a reader has ended");
        Ok(())
    }

    /// Waits until everybody has everything; answers what each change took to each reader.
    async fn end(self, admin: &Channel) -> anyhow::Result<Vec<(Change, Duration)>> {
        self.stop.send_replace(true);
        for writer in self.writers {
            writer.await??;
        }
        let changes = std::mem::take(&mut *self.changes.lock().unwrap());
        let mut all = Vec::new();
        for reader in self.readers {
            let sightings = reader.end(&changes, admin).await?;
            for change in &changes {
                let of_writer = &sightings[change.writer];
                let index = of_writer.partition_point(|(number, _)| *number < change.number);
                let (_, at) = of_writer.get(index).with_context(|| format!("{change:?} was not seen"))?;
                all.push((*change, at.saturating_duration_since(change.at)));
            }
        }
        Ok(all)
    }
}

/// Median, 99 % and longest of the changes asked for at these times.
fn latency(seen: &[(Change, Duration)], when: impl Fn(Instant) -> bool) -> (Duration, Duration, Duration) {
    let mut taken: Vec<_> =
        seen.iter().filter(|(change, _)| when(change.at)).map(|(_, took)| *took).collect();
    taken.sort();
    let at = |share: usize| taken.get(taken.len() * share / 100).copied().unwrap_or_default();
    (at(50), at(99), taken.last().copied().unwrap_or_default())
}

/// As long as names of hosts may be: what is told of it shall be worth something.
fn name(writer: u16) -> String {
    format!("writer-{writer}-{}", "x".repeat(50))
}

/// A node whose address changes all the time: its last part counts.
async fn write(
    writer: u16,
    channel: Channel,
    stop: watch::Receiver<bool>,
    changes: Arc<Mutex<Vec<Change>>>,
) -> anyhow::Result<()> {
    let address = |number: u16| v1::Endpoint {
        address_v6: format!("2001:db8:ffff:ffff:ffff:ffff:ffff:{:x}", writer + 0x1000),
        ..client::endpoint(writer * ADDRESSES + number)
    };
    let lease = client::acquire(&channel, NETWORK, u128::from(writer) + 1, address(0)).await?;
    let mut leases = LeaseServiceClient::new(channel);
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 1..ADDRESSES {
        if *stop.borrow() {
            return Ok(());
        }
        pace.tick().await;
        let at = Instant::now();
        let request = v1::UpdateEndpointRequest {
            name: lease.name.clone(),
            epoch: lease.epoch,
            endpoint: Some(address(number)),
        };
        leases.update_endpoint(request).await?;
        changes.lock().unwrap().push(Change { writer: writer.into(), number, at });
    }
    bail!("the addresses are used up")
}

/// Of each writer, in order: how far it was seen, and when.
type Sightings = Vec<Vec<(u16, Instant)>>;

/// A client that reads its watch.
struct Reading {
    task: JoinHandle<anyhow::Result<Infallible>>,
    state: watch::Receiver<(Sightings, Follower)>,
}

impl Reading {
    async fn begin(channel: Channel, mut follower: Follower) -> anyhow::Result<Self> {
        follower.open(&channel).await?;
        let sightings = vec![Vec::new(); WRITERS.into()];
        let (told, state) = watch::channel((sightings, Follower::observer(NETWORK)));
        let task = tokio::spawn(async move {
            let _connected = channel;
            loop {
                follower.next().await?;
                let at = Instant::now();
                let mut result = Ok(());
                told.send_modify(|(sightings, latest)| {
                    latest.peers.clone_from(&follower.peers);
                    latest.received = follower.received;
                    result = note(sightings, &follower, at);
                });
                result?;
            }
        });
        Ok(Self { task, state })
    }

    fn received(&self) -> usize {
        self.state.borrow().1.received
    }

    /// Waits until it has seen the last change of everybody; it then knows what the server lists.
    async fn end(mut self, changes: &[Change], admin: &Channel) -> anyhow::Result<Sightings> {
        let mut last = [0; WRITERS as usize];
        for change in changes {
            last[change.writer] = change.number;
        }
        let all = self.state.wait_for(|(sightings, _)| {
            sightings.iter().zip(last).all(|(seen, last)| seen.last().is_some_and(|(seen, _)| *seen == last))
        });
        let all = tokio::time::timeout(PATIENCE, all).await;
        let (sightings, latest) = {
            let state = all.map_err(|_| anyhow!("not every change was seen"))??;
            (state.0.clone(), state.1.peers.clone())
        };
        let leases = client::leases(admin).await?;
        for peer in latest.values() {
            let name = format!("networks/{NETWORK}/leases/{}", peer.node);
            let lease = leases.iter().find(|lease| lease.name == name).context("a peer without a lease")?;
            ensure!(lease.endpoint == peer.endpoint && lease.subnets == peer.subnets, "{lease:?}, {peer:?}");
        }
        // All but the reader itself.
        ensure!(latest.len() == leases.len() - 1, "{} peers of {} leases", latest.len(), leases.len());
        self.task.abort();
        Ok(sightings)
    }
}

/// Looks at every writer's address; it never goes back.
fn note(sightings: &mut Sightings, follower: &Follower, at: Instant) -> anyhow::Result<()> {
    for (writer, seen) in (0..WRITERS).zip(sightings) {
        let Some(peer) = follower.peers.get(&name(writer)) else { continue };
        let address: std::net::Ipv4Addr = peer.endpoint.clone().unwrap_or_default().address_v4.parse()?;
        let [_, _, high, low] = address.octets();
        let number = u16::from_be_bytes([high, low]) - writer * ADDRESSES;
        match seen.last() {
            Some((before, _)) if *before > number => bail!("w{writer} went back from {before} to {number}"),
            Some((before, _)) if *before == number => {}
            _ => seen.push((number, at)),
        }
    }
    Ok(())
}

/// What a stuck client leaves unread.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Unread {
    /// Everything: the process might as well be stopped.
    Socket,
    /// The messages of its watch; HTTP/2 itself goes on.
    Stream,
}

/// A connection with watches that nobody reads.
struct Stuck {
    valve: Arc<Valve>,
    connection: JoinHandle<hyper::Result<()>>,
    /// The connection ends when nobody can send on it or reads from it.
    _requests: SendRequest<Full<Bytes>>,
    _watches: Vec<Response<Incoming>>,
}

impl Stuck {
    /// Opens the watches, and reads no more.
    async fn open(
        deployment: &Deployment,
        identity: &Path,
        instance: &str,
        watches: usize,
        unread: Unread,
    ) -> anyhow::Result<Self> {
        let bundle = Bundle::read(identity)?;
        let tcp = deployment.control.host.connect(ControlPlane::address()).await?;
        let socket = socket2::Socket::from(tcp.as_fd().try_clone_to_owned()?);
        let name = control_plane_name(&bundle.id().cluster);
        let tls = TlsConnector::from(Arc::new(tls(&bundle)?));
        let stream = tls.connect(ServerName::try_from(name.clone())?, tcp).await?;
        let valve = Arc::<Valve>::default();
        let gate = Gate { stream, valve: Arc::clone(&valve) };
        // Where the socket is what stops it, HTTP/2 lets the server send as much as it likes.
        let window = if unread == Unread::Socket { 1 << 30 } else { 65_535 };
        let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .handshake::<_, Full<Bytes>>(TokioIo::new(gate))
            .await?;
        let connection = tokio::spawn(connection);
        let mut open = Vec::new();
        for _ in 0..watches {
            let message = v1::WatchPeersRequest {
                network: format!("networks/{NETWORK}"),
                resume_token: Vec::new(),
                instance_id: instance.to_owned(),
            };
            let request = Request::post(format!("https://{name}/loden.v1.PeerService/WatchPeers"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(framed(&message)))?;
            let response = requests.send_request(request).await?;
            ensure!(response.status() == 200, "{response:?}");
            open.push(response);
        }
        if unread == Unread::Socket {
            valve.close();
            // Nor shall the kernel take much in our place.
            socket.set_recv_buffer_size(4096)?;
        }
        Ok(Self { valve, connection, _requests: requests, _watches: open })
    }

    /// Reads again: the connection is gone, and not in order.
    async fn was_reset(self) -> anyhow::Result<()> {
        self.valve.open();
        let ended = tokio::time::timeout(PATIENCE, self.connection).await;
        let ended = ended.map_err(|_| anyhow!("the connection still lives"))??;
        ensure!(ended.is_err(), "the connection was closed in order");
        Ok(())
    }
}

/// A message as gRPC frames it.
fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    // A request is short.
    frame.put_u32(message.encoded_len() as u32);
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

fn tls(bundle: &Bundle) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bundle.ca_pem().as_bytes())?)?;
    let chain = vec![CertificateDer::from_pem_slice(bundle.certificate_pem().as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(bundle.key_pem().as_bytes())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Whether a socket is read.
#[derive(Default)]
struct Valve {
    closed: AtomicBool,
    waker: AtomicWaker,
}

impl Valve {
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.waker.wake();
    }
}

/// A socket that can be left unread.
struct Gate {
    stream: TlsStream<TcpStream>,
    valve: Arc<Valve>,
}

impl AsyncRead for Gate {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.valve.waker.register(cx.waker());
        if this.valve.closed.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
