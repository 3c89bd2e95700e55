//! A host, a control plane and room for an agent between them.

use std::net::IpAddr;
use std::path::PathBuf;

use loden_datapath::firewall::FakeFirewall;
use loden_datapath::{DefaultRoute, Fake, HostFacts, HostRoute, Interface, InterfaceAddress};
use loden_proto::model::{Family, Network, Port, Subnets};
use loden_transport::{Dialled, Origins, ServerAddress};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use super::server::{Server, Watch};
use super::{network, peer};
use crate::agent::{Agent, AgentConfig, AgentError, Connection};
use crate::iface::Selection;
use crate::session::Timing;

/// node-9 with 192.0.2.9 on eth0; its lease is 10.244.9.0/24.
pub(crate) struct World {
    pub(crate) kernel: Fake,
    pub(crate) firewall: FakeFirewall,
    pub(crate) firewall_insert: bool,
    pub(crate) blackhole_route: bool,
    pub(crate) udp_port: Option<Port>,
    pub(crate) server: Server,
    pub(crate) network: Network,
    watches: mpsc::Receiver<Watch>,
    root: TempDir,
    /// Where the agent believes to find the control plane.
    pub(crate) dialled: Vec<ServerAddress>,
}

/// An agent that runs until it is dropped.
pub(crate) struct Running {
    agent: Agent,
    network: Network,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(network())
    }

    pub(crate) fn with(network: Network) -> Self {
        let (server, watches) = Server::new();
        server.grant_lease(&network, subnets(), 1);
        let root = tempfile::tempdir().unwrap();
        let kernel = Fake::new(facts("192.0.2.9"));
        let (firewall, firewall_insert) = (FakeFirewall::default(), false);
        Self {
            kernel,
            firewall,
            firewall_insert,
            blackhole_route: false,
            udp_port: None,
            server,
            network,
            watches,
            root,
            dialled: Vec::new(),
        }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.root.path().join("state")
    }

    pub(crate) fn subnet_file(&self) -> PathBuf {
        self.root.path().join("run/subnet.env")
    }

    pub(crate) fn cni_config_dir(&self) -> PathBuf {
        self.root.path().join("net.d")
    }

    /// What pods start from.
    pub(crate) fn subnet_env(&self) -> String {
        std::fs::read_to_string(self.subnet_file()).unwrap()
    }

    pub(crate) fn start(&self) -> Running {
        let config = AgentConfig {
            networks: vec![self.network.id.clone()],
            state_dir: self.state_dir(),
            subnet_file: Some(self.subnet_file()),
            cni_config_dir: Some(self.cni_config_dir()),
            firewall_insert: self.firewall_insert,
            blackhole_route: self.blackhole_route,
            udp_port: self.udp_port,
            selection: Selection::default(),
            timing: Timing::default(),
        };
        let connection = Connection {
            node: "node-9".parse().unwrap(),
            channels: self.server.channel().into(),
            dialled: Dialled::of(&self.dialled),
            origins: Origins::default(),
        };
        let agent =
            Agent::start(config, &connection, self.firewall.clone(), |_| Ok(self.kernel.clone())).unwrap();
        Running { agent, network: self.network.clone() }
    }

    /// The next watch that an agent opens.
    pub(crate) async fn watch(&mut self) -> Watch {
        self.watches.recv().await.unwrap()
    }

    /// An agent that is ready with these peers, and its watch.
    pub(crate) async fn ready_with(&mut self, numbers: &[u8], token: u8) -> (Running, Watch) {
        let agent = self.start();
        let watch = self.watch().await;
        self.snapshot(&watch, numbers, false, token).await;
        agent.ready().await;
        (agent, watch)
    }

    pub(crate) async fn snapshot(&self, watch: &Watch, numbers: &[u8], adopting: bool, token: u8) {
        let peers: Vec<_> = numbers.iter().map(|number| peer(*number)).collect();
        watch.snapshot(&self.network, &peers, adopting, token).await;
    }

    /// The prefixes that the kernel routes into the tunnel.
    pub(crate) fn routes(&self) -> Vec<String> {
        self.kernel.tables().routes.keys().map(|key| key.prefix.to_string()).collect()
    }

    /// Waits until the kernel routes these prefixes.
    pub(crate) async fn routes_become(&self, numbers: &[u8]) {
        let expected: Vec<_> = numbers.iter().map(|number| format!("10.244.{number}.0/24")).collect();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.routes() != expected {
            assert!(tokio::time::Instant::now() < deadline, "{:?} instead of {expected:?}", self.routes());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl Running {
    pub(crate) fn readiness(&self) -> watch::Receiver<loden_process::operations::Readiness> {
        self.agent.readiness()
    }

    /// Waits until it is ready; answers the text.
    pub(crate) async fn ready(&self) -> String {
        self.told(|ready, _| ready).await
    }

    /// Waits until it is not ready; answers the text.
    pub(crate) async fn not_ready(&self) -> String {
        self.told(|ready, text| !ready && text != "starting").await
    }

    /// Waits for a text of `/readyz`.
    pub(crate) async fn told(&self, wanted: impl Fn(bool, &str) -> bool) -> String {
        let mut readiness = self.agent.readiness();
        let wait = readiness.wait_for(|readiness| wanted(readiness.ready, &readiness.detail));
        match tokio::time::timeout(std::time::Duration::from_secs(120), wait).await {
            Ok(readiness) => readiness.unwrap().detail.clone(),
            Err(_) => panic!("{:?}", self.agent.readiness().borrow()),
        }
    }

    pub(crate) fn overview(&self) -> watch::Receiver<crate::status::Overview> {
        self.agent.overview(&self.network.id).unwrap()
    }

    /// Runs until `shutdown` resolves or it fails, and waits until its tasks are gone.
    pub(crate) async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), self.agent.run(shutdown));
        ended.await.expect("it runs on")
    }

    /// Ends it as a signal would.
    pub(crate) async fn stop(self) {
        self.run(async {}).await.unwrap();
    }
}

pub(crate) fn subnets() -> Subnets {
    peer(9).subnets
}

/// A host with one interface and a way out.
pub(crate) fn facts(address: &str) -> HostFacts {
    let eth0 = "eth0".parse().unwrap();
    let gateway: IpAddr = [192, 0, 2, 254].into();
    let address = InterfaceAddress::lasting(format!("{address}/24").parse().unwrap());
    HostFacts {
        interfaces: vec![Interface { addresses: vec![address], ..Interface::ethernet(2, eth0) }],
        default_routes: vec![DefaultRoute {
            family: Family::of(gateway),
            device: eth0,
            gateway: Some(gateway),
            metric: 0,
        }],
        routes: vec![HostRoute {
            prefix: "0.0.0.0/0".parse().unwrap(),
            device: Some(eth0),
            gateway: Some(gateway),
            metric: 0,
            drops: false,
        }],
        connected: vec![(eth0, "192.0.2.0/24".parse().unwrap())],
        forwards: vec![Family::V4, Family::V6],
        ..HostFacts::default()
    }
}
