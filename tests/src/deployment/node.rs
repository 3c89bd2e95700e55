//! A node: a host with the real agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper::StatusCode;
use ipnet::IpNet;

use super::store::Store;
use super::{Binaries, http, ready::ready};
use crate::hosts::{Container, Host, Process};

/// The agent's operations address, on its host's loopback.
const OPERATIONS: ([u8; 4], u16) = ([127, 0, 0, 1], 7481);
/// The bridge of the containers.
const BRIDGE: &str = "cni0";

/// A host with an agent that can be killed and started.
#[derive(Debug)]
pub struct Node {
    /// The agent; `None` while it is down.
    pub process: Option<Process>,
    /// The node's name.
    pub name: String,
    /// The host.
    pub host: Host,
    /// Where its identity, state and subnet file are.
    pub home: PathBuf,
    server: String,
    binaries: Binaries,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    store: Option<Store>,
}

impl Node {
    pub(super) fn new(
        name: &str,
        host: Host,
        home: PathBuf,
        server: String,
        binaries: Binaries,
        flags: &[&str],
    ) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self {
            process: None,
            name: name.to_owned(),
            host,
            home,
            server,
            binaries,
            flags,
            environment: Vec::new(),
            store: None,
        }
    }

    /// Gives the agent more of an environment from its next start on, where nothing else starts it.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// Gives the agent other extra flags from its next start on.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Holds the agent's descriptors over restarts, as a service manager does; from its next start on.
    ///
    /// # Errors
    /// When the store cannot be made.
    pub fn hold(&mut self) -> anyhow::Result<()> {
        self.store = Some(Store::open(&self.home.join("notify"))?);
        Ok(())
    }

    /// The names of the descriptors that are held.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        self.store.as_ref().map(Store::names).unwrap_or_default()
    }

    /// Starts the agent and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if let Some(store) = &self.store {
            let starter = store.command()?;
            return self.start_under(starter);
        }
        let command = self.command();
        self.process = Some(self.host.spawn("agent", command)?);
        Ok(())
    }

    /// Starts the agent as what another program, such as strace, runs, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_under(&mut self, mut program: Command) -> anyhow::Result<()> {
        let command = self.command();
        program.arg(command.get_program()).args(command.get_args());
        self.process = Some(self.host.spawn("agent", program)?);
        Ok(())
    }

    /// The agent's command line.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binaries.agent);
        command
            .args(["--server", &self.server])
            .args(["--iface", "eth0"])
            .arg("--identity")
            .arg(self.home.join("identity"))
            .arg("--state-dir")
            .arg(self.home.join("state"))
            .arg("--subnet-file")
            .arg(self.subnet_file())
            .arg("--cni-config-dir")
            .arg(self.cni_config_dir())
            .args(["--operations", &SocketAddr::from(OPERATIONS).to_string()])
            .arg("--socket")
            .arg(self.socket())
            .args(&self.flags)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Has the host join with a token; answers how the agent's program ended and what it said.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn join(&self, token: &str) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.binaries.agent);
        command
            .args(["join", "--server", &self.server, "--node", &self.name, "--token", token])
            .arg("--identity")
            .arg(self.home.join("identity"));
        let host = self.host.clone();
        let output = tokio::task::spawn_blocking(move || host.enter(|| command.output())).await?;
        output.context("could not run loden-agent join")
    }

    /// Ends the agent as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> anyhow::Result<()> {
        let process =
            self.process.take().ok_or_else(|| anyhow!("the agent of {} does not run", self.name))?;
        Ok(process.kill9().await?)
    }

    /// Ends the agent as an operator would, and waits.
    ///
    /// # Errors
    /// When it does not run or does not end within ten seconds.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let process =
            self.process.take().ok_or_else(|| anyhow!("the agent of {} does not run", self.name))?;
        process.terminate()?;
        process.wait_exit(Duration::from_secs(10)).await?;
        Ok(())
    }

    /// Waits until `/readyz` says yes; answers what it said.
    ///
    /// # Errors
    /// When it does not within `timeout`, with its last answer.
    pub async fn ready(&self, timeout: Duration) -> anyhow::Result<String> {
        let what = format!("the agent of {}", self.name);
        ready(&what, self.process.as_ref(), timeout, async || self.get("/readyz").await).await
    }

    /// Gets a path of the agent's operations port.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, String)> {
        http::get(&self.host, OPERATIONS.into(), path).await
    }

    /// One of the agent's metrics, by its name; the network's label is not looked at.
    ///
    /// # Errors
    /// When the agent does not answer or has no such metric.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (_, text) = self.get("/metrics").await?;
        let value = text.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest.strip_prefix('{').and_then(|labels| Some(labels.split_once('}')?.1));
            value.unwrap_or(rest).strip_prefix(' ')?.parse().ok()
        });
        value.with_context(|| format!("there is no metric {name} in:\n{text}"))
    }

    /// The node's `subnet.env`.
    #[must_use]
    pub fn subnet_file(&self) -> PathBuf {
        self.home.join("subnet.env")
    }

    /// Where the agent writes its networks' CNI configurations.
    #[must_use]
    pub fn cni_config_dir(&self) -> PathBuf {
        self.home.join("net.d")
    }

    /// Where the agent may be asked how it is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.join("agent.sock")
    }

    /// Reads `subnet.env`.
    ///
    /// # Errors
    /// When it is not there or lacks a key.
    pub fn subnet_env(&self) -> anyhow::Result<SubnetEnv> {
        let path = self.subnet_file();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        SubnetEnv::parse(&text).with_context(|| format!("{} is not complete", path.display()))
    }

    /// Attaches a container to the node's bridge, at the second address of each of its subnets; makes the
    /// bridge first. `name` is unique in the lab.
    ///
    /// # Errors
    /// When there is no `subnet.env` yet or the kernel refuses.
    pub async fn attach(&self, name: &str) -> anyhow::Result<Container> {
        let env = self.subnet_env()?;
        self.host.bridge(BRIDGE, env.subnet, env.mtu).await?;
        let (address, gateway) = (after(env.subnet)?, env.subnet.addr());
        let mut container = self.host.container(name, BRIDGE, address, gateway).await?;
        if env.subnet_v6.is_some() {
            self.extend(&mut container).await?;
        }
        Ok(container)
    }

    /// Gives a container of this node an address in its IPv6 subnet, which may have come later.
    ///
    /// # Errors
    /// When the node has none or the kernel refuses.
    pub async fn extend(&self, container: &mut Container) -> anyhow::Result<()> {
        let subnet =
            self.subnet_env()?.subnet_v6.with_context(|| format!("{} has no IPv6 subnet", self.name))?;
        self.host.add_address(BRIDGE, subnet).await?;
        Ok(container.add(after(subnet)?, subnet.addr()).await?)
    }
}

/// The address after this one, in the same subnet.
fn after(net: IpNet) -> anyhow::Result<IpNet> {
    let next = match net.addr() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + 1).into()),
    };
    Ok(IpNet::new(next, net.prefix_len())?)
}

/// What `subnet.env` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SubnetEnv {
    /// The network's pool.
    pub network: IpNet,
    /// The node's subnet with the bridge's address in it.
    pub subnet: IpNet,
    /// The same of the network's IPv6 pool, where it has one.
    pub subnet_v6: Option<IpNet>,
    /// MTU of the containers in bytes.
    pub mtu: u32,
}

impl SubnetEnv {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let keys: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let key = |name: &str| keys.get(name).copied().with_context(|| format!("{name} is missing"));
        Ok(Self {
            network: key("FLANNEL_NETWORK")?.parse()?,
            subnet: key("FLANNEL_SUBNET")?.parse()?,
            subnet_v6: keys.get("FLANNEL_IPV6_SUBNET").map(|subnet| subnet.parse()).transpose()?,
            mtu: key("FLANNEL_MTU")?.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::cidr;

    #[test]
    fn a_subnet_file_is_read() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        let env = SubnetEnv::parse(text).unwrap();
        assert_eq!((env.network, env.subnet, env.mtu), (cidr("10.244.0.0/16"), cidr("10.244.7.1/24"), 1450));
        assert_eq!(env.subnet_v6, None);
        let both = format!("{text}FLANNEL_IPV6_SUBNET=fd00:244:0:7::1/64\n");
        assert_eq!(SubnetEnv::parse(&both).unwrap().subnet_v6, Some(cidr("fd00:244:0:7::1/64")));
        assert!(SubnetEnv::parse("FLANNEL_MTU=1450\n").unwrap_err().to_string().contains("FLANNEL_NETWORK"));
    }
}
