//! containerd on two hosts, which starts pods by the Container Runtime Interface as Kubernetes has it do.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use loden_tests::{
    cni::PublishedPort,
    deployment::{Deployment, Node},
    hosts::{Namespace, Process, ip},
    wait,
};

use crate::cell::Cell;
use crate::cri::{Cri, Pod};
use crate::crictl::Crictl;
use crate::pods::{links, published};
use crate::{Plugins, SOON, image};

const WEB: PublishedPort = PublishedPort { host: 8080, container: 80 };
/// A page that says whose it is.
const SERVE: &str = "mkdir /www && hostname > /www/index.html && exec httpd -f -p 80 -h /www";
const GET: &str = "GET / HTTP/1.0\r\n\r\n";

/// A node with containerd, which can be killed and started.
struct Machine {
    node: Node,
    daemon: Option<Process>,
    cri: Cri,
    cell: Cell,
    home: PathBuf,
}

impl Machine {
    /// Starts containerd; the agent does not run yet.
    async fn prepare(deployment: &Deployment, name: &str, number: u8) -> anyhow::Result<Self> {
        let node = deployment.prepare_node(name, number, &[]).await?;
        let home = node.home.join("containerd");
        fs::create_dir_all(&home)?;
        let cell = Cell::start(&node.host).await?;
        fs::write(home.join("config.toml"), config(&home, &node.cni_config_dir())?)?;
        let cri = Cri::at(&home.join("containerd.sock"))?;
        let mut machine = Self { node, daemon: None, cri, cell, home };
        machine.start_containerd().await?;
        Ok(machine)
    }

    async fn start_containerd(&mut self) -> anyhow::Result<()> {
        let mut command = self.cell.command("containerd");
        command.arg("--config").arg(self.home.join("config.toml"));
        self.daemon = Some(self.node.host.spawn("containerd", command)?);
        until("containerd to answer", async || self.cri.network().await).await.map(drop)
    }

    async fn kill_containerd(&mut self) -> anyhow::Result<()> {
        let daemon = self.daemon.take().context("containerd does not run")?;
        Ok(daemon.kill9().await?)
    }

    fn load(&self, image: &Path) -> anyhow::Result<()> {
        let socket = self.home.join("containerd.sock");
        let words = ["--address", text(&socket)?, "--namespace", "k8s.io", "images", "import", text(image)?];
        self.cell.run("ctr", &words).map(drop)
    }

    async fn network_is_ready(&self) -> anyhow::Result<()> {
        until("the runtime's network to be ready", async || {
            let (ready, message) = self.cri.network().await?;
            ensure!(ready, "{message}");
            Ok(())
        })
        .await
    }

    async fn run(&self, name: &str, ports: &[PublishedPort], command: &str) -> anyhow::Result<Pod> {
        // The lab removes control groups of its hosts' names.
        let cgroup = self.node.host.full_name();
        self.cri.start(name, cgroup, ports, image::NAME, &["sh", "-c", command]).await
    }

    /// What the page on an address says to a pod of this machine.
    async fn page(&self, pod: &Pod, address: SocketAddr) -> anyhow::Result<String> {
        let command =
            format!("printf '{}' | nc -w 5 {} {}", GET.escape_default(), address.ip(), address.port());
        Ok(last_line(&self.cri.shell(pod, &command).await?))
    }

    /// Nothing of pods that are gone is left.
    async fn is_clean(&self) -> anyhow::Result<()> {
        let left = links(&self.node.host).await?;
        let names: Vec<_> = left.iter().map(String::as_str).collect();
        ensure!(names == ["eth0", "lo", "loden1a", "lodenbr1"], "{left:?}");
        let rules = published(&self.node.host)?;
        ensure!(rules.is_empty(), "{rules:?}");
        let namespaces = self.cell.names("/run/netns");
        ensure!(namespaces.is_empty(), "{namespaces:?}");
        let mut taken = self.cell.names("/var/lib/cni/networks/loden-default");
        taken.retain(|name| name.parse::<IpAddr>().is_ok());
        ensure!(taken.is_empty(), "{taken:?}");
        Ok(())
    }
}

/// Waits until what is asked by a future is there.
async fn until<T>(what: &str, condition: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    Ok(wait::until(what, SOON, async || condition().await.map_err(|error| format!("{error:#}"))).await?)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path is no text")
}

/// Everything of containerd's below the cell's own directories, and its socket where the test reaches it.
fn config(home: &Path, cni: &Path) -> anyhow::Result<String> {
    let plugins = Plugins::distribution()?;
    let (socket, cni, plugins) = (text(home)?, text(cni)?, text(&plugins.folders[0])?);
    let image = image::NAME;
    Ok(format!(
        r#"version = 2
disabled_plugins = [
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{socket}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
disable_apparmor = true
disable_tcp_service = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{cni}"
"#
    ))
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}

/// What the page on an address says to a host.
fn page(from: &Namespace, address: SocketAddr) -> anyhow::Result<String> {
    let stream = from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)));
    let mut stream = stream.with_context(|| format!("{} does not reach {address}", from.full_name()))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(GET.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(last_line(&text))
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_pods_reach_each_other_also_after_agent_and_runtime_were_killed() -> anyhow::Result<()> {
    let deployment = Deployment::start("containerd", &[]).await?;
    let create = ["network", "create", "default", "--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"];
    deployment.lodenctl(&create).await?;
    let image = image::write(deployment.lab.directory())?;
    let mut a = Machine::prepare(&deployment, "a", 11).await?;
    let mut b = Machine::prepare(&deployment, "b", 12).await?;
    for machine in [&mut a, &mut b] {
        machine.load(&image)?;
        let (ready, message) = machine.cri.network().await?;
        ensure!(!ready, "the network is ready without a network: {message}");
        machine.node.start()?;
        machine.node.ready(SOON).await?;
        machine.network_is_ready().await?;
    }

    let client = a.run("client", &[], "exec sleep infinity").await?;
    let web = b.run("web", &[WEB], SERVE).await?;
    let everybody_talks = async |a: &Machine, b: &Machine, web: &Pod, name: &str| -> anyhow::Result<()> {
        let addresses = b.cri.addresses(web).await?;
        ensure!(addresses.len() == 2, "not one address per family: {addresses:?}");
        for address in addresses {
            let page = async || a.page(&client, SocketAddr::new(address, WEB.container)).await;
            let said = until("the page", page).await?;
            ensure!(said == name, "{address} says {said:?}");
            a.cri.shell(&client, &format!("ping -c 3 -i 0.2 -W 5 {address}")).await?;
        }
        Ok(())
    };
    let outside = SocketAddr::new(ip("192.0.2.12"), WEB.host);
    everybody_talks(&a, &b, &web, "web").await?;
    for from in [&a.node.host, &b.node.host, &deployment.control.host] {
        ensure!(page(from, outside)? == "web", "{} was led elsewhere", from.name());
    }

    b.node.kill9().await?;
    b.kill_containerd().await?;
    ensure!(page(&a.node.host, outside)? == "web");
    b.start_containerd().await?;
    everybody_talks(&a, &b, &web, "web").await?;
    b.node.start()?;
    b.node.ready(SOON).await?;
    b.network_is_ready().await?;
    everybody_talks(&a, &b, &web, "web").await?;
    ensure!(page(&a.node.host, outside)? == "web");
    let late = b.run("late", &[], SERVE).await?;
    everybody_talks(&a, &b, &late, "late").await?;

    an_operator_sees_and_starts_pods(&a, &b).await?;

    a.cri.remove(&client).await?;
    for pod in [&web, &late] {
        b.cri.remove(pod).await?;
    }
    for machine in [&a, &b] {
        machine.is_clean().await.with_context(|| format!("left on {}", machine.node.name))?;
    }
    Ok(())
}

/// With crictl, as one does by hand: a pod on one machine is reached from one on the other, and from that host, by
/// the port that it publishes.
async fn an_operator_sees_and_starts_pods(a: &Machine, b: &Machine) -> anyhow::Result<()> {
    let (Some(on_a), Some(on_b)) = (Crictl::built(&a.cell, &a.home), Crictl::built(&b.cell, &b.home)) else {
        println!("crictl is not built here: pods were started by the test's own client alone");
        return Ok(());
    };
    ensure!(on_b.pod("web")?.1 == "SANDBOX_READY", "{:?}", on_b.pod("web")?);
    let port = PublishedPort { host: 8081, container: 80 };
    on_b.start("by-hand", b.node.host.full_name(), &[port], SERVE)?;
    let client = on_a.start("asks", a.node.host.full_name(), &[], "exec sleep infinity")?;
    let published = SocketAddr::new(ip("192.0.2.12"), port.host);
    let get = format!("printf '{}' | nc -w 5 192.0.2.12 {}", GET.escape_default(), port.host);
    let said = until("the page by the published port", async || on_a.shell(&client, &get));
    // It adds an empty line or two.
    let said = said.await?;
    ensure!(last_line(said.trim_end()) == "by-hand", "crictl's pod was told {said:?}");
    ensure!(page(&a.node.host, published)? == "by-hand", "{} was led elsewhere", a.node.host.name());
    on_a.remove(&on_a.pod("asks")?.0)?;
    on_b.remove(&on_b.pod("by-hand")?.0)
}
