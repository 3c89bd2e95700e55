//! A client that knows nothing of Loden but what the control plane, or an agent, tells it by reflection:
//! grpcurl, and buf's `buf curl`.

#![cfg(test)]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use loden_tests::{
    deployment::{ControlPlane, Deployment, Node},
    hosts::Process,
    wait,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const SERVICES: [&str; 5] = [
    "loden.v1.ClusterService",
    "loden.v1.LeaseService",
    "loden.v1.NetworkService",
    "loden.v1.NodeService",
    "loden.v1.PeerService",
];

/// A program that speaks gRPC by reflection.
#[derive(Clone, Debug)]
enum Tool {
    Grpcurl(PathBuf),
    BufCurl(PathBuf),
}

impl Tool {
    /// All that `make tools` has installed, and what else is in the path; one of them is used
    /// where Go cannot build the other.
    fn installed() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::iter::once(root).chain(std::env::split_paths(&path)).collect();
        let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
        let grpcurl = find("grpcurl").map(Self::Grpcurl);
        grpcurl.into_iter().chain(find("buf").map(Self::BufCurl)).collect()
    }

    /// The program with the admin's identity, ready for what shall be called.
    fn command(&self, control: &ControlPlane) -> Command {
        let identity = control.admin_identity();
        let (mut command, dashes) = match self {
            Self::Grpcurl(program) => (Command::new(program), "-"),
            Self::BufCurl(program) => {
                let mut command = Command::new(program);
                command.args(["curl", "--protocol", "grpc"]);
                (command, "--")
            }
        };
        for (flag, file) in [("cacert", "ca.crt"), ("cert", "tls.crt"), ("key", "tls.key")] {
            command.arg(format!("{dashes}{flag}")).arg(identity.join(file));
        }
        // What every client verifies, whatever it dials.
        command.arg(format!("{dashes}servername")).arg("control-plane.demo.loden");
        command
    }

    fn call(&self, control: &ControlPlane, method: &str, request: &Value) -> Command {
        let mut command = self.command(control);
        command.arg("-d").arg(request.to_string());
        match self {
            Self::Grpcurl(_) => command.arg(control.address().to_string()).arg(method),
            Self::BufCurl(_) => command.arg(format!("{}/{method}", control.endpoint())),
        };
        command
    }

    /// Asks an agent on its socket how it is.
    fn ask(&self, node: &Node) -> Command {
        const METHOD: &str = "loden.v1.AgentService/GetAgentStatus";
        match self {
            Self::Grpcurl(program) => {
                let mut command = Command::new(program);
                command.arg("-plaintext").arg(format!("unix://{}", node.socket().display())).arg(METHOD);
                command
            }
            Self::BufCurl(program) => {
                let mut command = Command::new(program);
                command.args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--unix-socket"]);
                command.arg(node.socket()).args(["-d", "{}"]).arg(format!("http://localhost/{METHOD}"));
                command
            }
        }
    }

    fn list(&self, control: &ControlPlane) -> Command {
        let mut command = self.command(control);
        match self {
            Self::Grpcurl(_) => command.arg(control.address().to_string()).arg("list"),
            Self::BufCurl(_) => command.arg("--list-services").arg(control.endpoint()),
        };
        command
    }

    fn describe(&self, control: &ControlPlane, service: &str) -> Command {
        let mut command = self.command(control);
        match self {
            Self::Grpcurl(_) => command.arg(control.address().to_string()).args(["describe", service]),
            // Of all services at once.
            Self::BufCurl(_) => command.arg("--list-methods").arg(control.endpoint()),
        };
        command
    }
}

/// Runs a program on the control plane's host and answers what it printed.
fn run(control: &ControlPlane, mut command: Command) -> anyhow::Result<String> {
    let output = control.host.enter(|| command.output()).context("could not run it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn answer(control: &ControlPlane, command: Command) -> anyhow::Result<Value> {
    let text = run(control, command)?;
    serde_json::from_str(&text).with_context(|| format!("this is no JSON: {text}"))
}

/// The messages of a stream so far; one that is still being written does not count.
fn messages(process: &Process) -> anyhow::Result<Vec<Value>> {
    let text = process.log().text()?;
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut read = Vec::new();
    for value in values {
        match value {
            Ok(value) => read.push(value),
            Err(error) if error.is_eof() => break,
            Err(error) => bail!("{error} in: {text}"),
        }
    }
    Ok(read)
}

async fn message(watch: &Process, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let found = wait::until(what, SOON, async || {
        let all = messages(watch)?;
        all.iter().find(|message| wanted(message)).cloned().with_context(|| format!("got only {all:?}"))
    });
    Ok(found.await?)
}

async fn story(tool: &Tool, name: &str) -> anyhow::Result<()> {
    let deployment = Deployment::start(name, &[]).await?;
    let control = &deployment.control;

    let services = run(control, tool.list(control))?;
    for service in SERVICES {
        ensure!(services.lines().any(|line| line.trim() == service), "{service} is not in: {services}");
        let described = run(control, tool.describe(control, service))?;
        ensure!(described.contains(service), "{service} is not described: {described}");
    }
    ensure!(!services.contains("AgentService"), "agents serve it themselves: {services}");
    let described = run(control, tool.describe(control, "loden.v1.PeerService"))?;
    ensure!(described.contains("WatchPeers") && described.contains("ReportStatus"), "{described}");
    if let Tool::Grpcurl(_) = tool {
        ensure!(described.contains("returns ( stream .loden.v1.WatchPeersResponse )"), "{described}");
        let network = run(control, tool.describe(control, "loden.v1.Network"))?;
        ensure!(network.contains("optional uint32 vni = 3"), "{network}");
    }
    let health = answer(control, tool.call(control, "grpc.health.v1.Health/Check", &json!({})))?;
    ensure!(health["status"] == "SERVING", "{health}");

    let wish = json!({"network": {
        "name": "networks/default", "pools": [{"cidr": "10.244.0.0/16"}], "vni": 77, "vxlan": {},
    }});
    let made = answer(control, tool.call(control, "loden.v1.NetworkService/CreateNetwork", &wish))?;
    ensure!(made["vni"] == 77 && made["pools"][0]["nodePrefixLen"] == 24, "{made}");
    ensure!(made["vxlan"]["port"] == 8472, "{made}");
    let again = run(control, tool.call(control, "loden.v1.NetworkService/CreateNetwork", &wish));
    let refusal = format!("{:#}", again.expect_err("it exists"));
    ensure!(refusal.contains("networks/default exists already"), "{refusal}");

    limits(tool, control)?;

    let first = deployment.add_node("a", 11, &[]).await?;
    first.ready(SOON).await?;
    let told = answer(control, tool.ask(&first))?;
    ensure!(told["node"] == "nodes/a" && told["ready"] == true, "{told}");
    let network = &told["networks"][0];
    ensure!(network["connected"] == true && network["source"] == "PEER_SOURCE_SERVER", "{told}");
    ensure!(network["programmed"]["vxlan"]["port"] == 8472, "{told}");
    let watch =
        tool.call(control, "loden.v1.PeerService/WatchPeers", &json!({"network": "networks/default"}));
    let watch = control.host.spawn("watch", watch)?;
    let snapshot = message(&watch, "the snapshot", |message| message["snapshot"]["last"] == true).await?;
    ensure!(snapshot["snapshot"]["peers"][0]["node"] == "a", "{snapshot}");
    ensure!(snapshot["resumeToken"].as_str().is_some_and(|token| !token.is_empty()), "{snapshot}");

    let second = deployment.add_node("b", 12, &[]).await?;
    second.ready(SOON).await?;
    let delta = message(&watch, "the joining of b", |message| {
        let upserts = message["delta"]["upserts"].as_array();
        upserts.is_some_and(|peers| {
            peers.iter().any(|peer| peer["node"] == "b" && !peer["endpoint"]["receivers"].is_null())
        })
    });
    let delta = delta.await?;
    ensure!(delta["delta"]["upserts"][0]["endpoint"]["addressV4"] == "192.0.2.12", "{delta}");
    message(&watch, "a heartbeat", |message| !message["heartbeat"].is_null()).await?;

    let wish = json!({"parent": "networks/default"});
    let leases = answer(control, tool.call(control, "loden.v1.LeaseService/ListLeases", &wish))?;
    let names: Vec<_> =
        leases["leases"].as_array().into_iter().flatten().map(|lease| &lease["name"]).collect();
    ensure!(names == ["networks/default/leases/a", "networks/default/leases/b"], "{leases}");
    ensure!(leases["leases"][0]["state"] == "LEASE_STATE_ACTIVE", "{leases}");
    watch.terminate()?;
    Ok(())
}

/// A network of the backend UDP, whose limits are changed one by one.
fn limits(tool: &Tool, control: &ControlPlane) -> anyhow::Result<()> {
    let wish =
        json!({"network": {"name": "networks/tunnel", "pools": [{"cidr": "10.245.0.0/16"}], "udp": {}}});
    let made = answer(control, tool.call(control, "loden.v1.NetworkService/CreateNetwork", &wish))?;
    let udp = &made["udp"];
    ensure!(udp["port"] == 8285 && udp["deviceOffload"] == "DEVICE_OFFLOAD_USO", "{made}");
    // Not every tool knows how JSON has a mask.
    let mask = match tool {
        Tool::Grpcurl(_) => json!({"paths": ["udp.device_offload"]}),
        Tool::BufCurl(_) => json!("udp.deviceOffload"),
    };
    let udp = json!({"deviceOffload": "DEVICE_OFFLOAD_PLAIN", "singleSends": true});
    let wish = json!({"network": {"name": "networks/tunnel", "udp": udp}, "updateMask": mask});
    let changed = answer(control, tool.call(control, "loden.v1.NetworkService/UpdateNetwork", &wish))?;
    ensure!(changed["udp"] == json!({"port": 8285, "deviceOffload": "DEVICE_OFFLOAD_PLAIN"}), "{changed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_only_reflection_creates_lists_and_watches() -> anyhow::Result<()> {
    let tools = Tool::installed();
    ensure!(!tools.is_empty(), "neither grpcurl nor buf is installed: run `make tools`");
    for (index, tool) in tools.iter().enumerate() {
        // Past the test harness, which shows what a test prints only when it fails.
        writeln!(std::io::stderr(), "grpcurl test: with {tool:?}")?;
        story(tool, &format!("curl-{index}")).await.with_context(|| format!("with {tool:?}"))?;
    }
    Ok(())
}
