//! A node: a host with the real agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use hyper::StatusCode;
use ipnet::IpNet;

use super::{Binaries, http};
use crate::hosts::{Container, Host, Process};
use crate::wait;

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
        Self { process: None, name: name.to_owned(), host, home, server, binaries, flags }
    }

    /// Starts the agent and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
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
            .args(["--operations", &SocketAddr::from(OPERATIONS).to_string()])
            .args(&self.flags);
        command
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
        let what = format!("the agent of {} to be ready", self.name);
        let ready = wait::until(&what, timeout, async || {
            if let Some(status) = self.process.as_ref().and_then(Process::exit_status) {
                return Err(anyhow!("it ended with {status}"));
            }
            let (status, body) = self.get("/readyz").await?;
            ensure!(status == StatusCode::OK, "{status}: {body}");
            Ok(body)
        });
        let tail = || self.process.as_ref().map(|process| process.log().tail()).unwrap_or_default();
        ready.await.map_err(|error| anyhow!("{error}\n{}", tail()))
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

    /// Attaches a container to the node's bridge, at the second address of its subnet; makes the
    /// bridge first. `name` is unique in the lab.
    ///
    /// # Errors
    /// When there is no `subnet.env` yet or the kernel refuses.
    pub async fn attach(&self, name: &str) -> anyhow::Result<Container> {
        let env = self.subnet_env()?;
        self.host.bridge(BRIDGE, env.subnet, env.mtu).await?;
        let IpAddr::V4(gateway) = env.subnet.addr() else { return Err(anyhow!("the subnet is not IPv4")) };
        let address = IpAddr::from(std::net::Ipv4Addr::from(u32::from(gateway) + 1));
        let address = IpNet::new(address, env.subnet.prefix_len())?;
        Ok(self.host.container(name, BRIDGE, address, gateway.into()).await?)
    }
}

/// What `subnet.env` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SubnetEnv {
    /// The network's pool.
    pub network: IpNet,
    /// The node's subnet with the bridge's address in it.
    pub subnet: IpNet,
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
        assert!(SubnetEnv::parse("FLANNEL_MTU=1450\n").unwrap_err().to_string().contains("FLANNEL_NETWORK"));
    }
}
