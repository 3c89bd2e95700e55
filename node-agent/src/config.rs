//! The flags of `loden-agent`; the same names serve the environment and the file.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use loden_process::completions::Shell;
use loden_process::exit::DAEMON_HELP;
use loden_process::logging::LogArgs;
use loden_proto::InvalidValue;
use loden_proto::model::{JoinToken, Port};
use loden_proto::names::{NetworkId, NodeId};
use loden_transport::ServerAddress;
use regex::Regex;

use crate::agent::AgentConfig;
use crate::cleanup::Places;
use crate::iface::Selection;
use crate::session::Timing;

/// Follows the peers of a network and programs the kernel's forwarding.
#[derive(Clone, Debug, Parser)]
#[command(name = "loden-agent", version, after_help = DAEMON_HELP, subcommand_negates_reqs = true)]
pub struct Flags {
    /// Something else to do than to run
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Control plane to connect to, host or host:port; repeat it for several
    #[arg(long, env = "LODEN_SERVER", value_name = "ADDRESS", value_delimiter = ',', required = true)]
    pub server: Vec<ServerAddress>,

    /// Directory with this node's identity: ca.crt, tls.crt, tls.key
    #[arg(
        long,
        env = "LODEN_IDENTITY",
        value_name = "DIR",
        default_value = IDENTITY,
        value_hint = ValueHint::DirPath
    )]
    pub identity: PathBuf,

    /// Token to join with when there is no identity yet, or one that has ended; see loden-agent join
    #[arg(long, env = "LODEN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<JoinToken>,

    /// This node's name when it joins; the host's name without it, or that which the token is for
    #[arg(long, env = "LODEN_NODE", value_name = "NAME")]
    pub node: Option<NodeId>,

    /// Leave the certificate alone: somebody else puts another one into the directory in time
    #[arg(long, env = "LODEN_NO_RENEWAL")]
    pub no_renewal: bool,

    /// Network to be part of; repeat it for several, the subnet file is the first one's
    #[arg(
        long,
        env = "LODEN_NETWORK",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "default"
    )]
    pub network: Vec<NetworkId>,

    /// Where the agent keeps what it has to know after a restart
    #[arg(
        long,
        env = "LODEN_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/loden/agent",
        value_hint = ValueHint::DirPath,
        global = true
    )]
    pub state_dir: PathBuf,

    /// File that CNI plugins read, as flannel's
    #[arg(
        long,
        env = "LODEN_SUBNET_FILE",
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env",
        value_hint = ValueHint::FilePath,
        global = true
    )]
    pub subnet_file: PathBuf,

    /// Directory where container runtimes look for CNI configurations; each network gets one
    #[arg(
        long,
        env = "LODEN_CNI_CONFIG_DIR",
        value_name = "DIR",
        default_value = "/etc/cni/net.d",
        value_hint = ValueHint::DirPath,
        global = true
    )]
    pub cni_config_dir: PathBuf,

    /// Write no CNI configuration
    #[arg(long, env = "LODEN_NO_CNI")]
    pub no_cni: bool,

    /// Interface whose addresses are sent from, by name or address; repeat it, the first that fits is taken
    #[arg(long, env = "LODEN_IFACE", value_name = "NAME|ADDRESS", value_delimiter = ',')]
    pub iface: Vec<String>,

    /// The same by pattern: addresses are tried first, then names
    #[arg(long, env = "LODEN_IFACE_REGEX", value_name = "REGEX")]
    pub iface_regex: Vec<Regex>,

    /// The interface over which this address is reached
    #[arg(long, env = "LODEN_IFACE_CAN_REACH", value_name = "ADDRESS")]
    pub iface_can_reach: Option<IpAddr>,

    /// IPv4 address that peers send to, where it is not the interface's own (NAT)
    #[arg(long, env = "LODEN_PUBLIC_IP", value_name = "ADDRESS")]
    pub public_ip: Option<Ipv4Addr>,

    /// IPv6 address that peers send to, where it is not the interface's own
    #[arg(long, env = "LODEN_PUBLIC_IPV6", value_name = "ADDRESS")]
    pub public_ipv6: Option<Ipv6Addr>,

    /// Put accepting rules first in chains of others that would drop the pods' packets
    #[arg(long, env = "LODEN_FIREWALL_INSERT")]
    pub firewall_insert: bool,

    /// Drop packets for addresses of the node's subnets that no pod has, instead of sending them by the default
    /// route
    #[arg(long, env = "LODEN_BLACKHOLE_ROUTE")]
    pub blackhole_route: bool,

    /// UDP port of this node's tunnels in networks with backend udp, where it is not to be the network's
    #[arg(long, env = "LODEN_UDP_PORT", value_name = "PORT", value_parser = udp_port)]
    pub udp_port: Option<Port>,

    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env = "LODEN_OPERATIONS", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7481")]
    pub operations: SocketAddr,

    /// Unix socket on which root and the file's group may ask how the agent is; gRPC, and nothing is changed there
    #[arg(
        long,
        env = "LODEN_SOCKET",
        value_name = "FILE",
        default_value = "/run/loden/agent.sock",
        value_hint = ValueHint::FilePath,
        global = true
    )]
    pub socket: PathBuf,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Something else to do than to run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Become a node with a token: make a key, and get a certificate for it
    #[command(after_help = JOIN_HELP)]
    Join(JoinArgs),
    /// Remove what agents have left on this host, when none runs any more
    #[command(after_help = CLEANUP_HELP)]
    Cleanup,
}

/// What is needed to join.
#[derive(Args, Clone, Debug)]
pub struct JoinArgs {
    /// Control plane to connect to, host or host:port; repeat it for several
    #[arg(
        long,
        alias = "control-plane",
        env = "LODEN_SERVER",
        value_name = "ADDRESS",
        value_delimiter = ',',
        required = true
    )]
    pub server: Vec<ServerAddress>,

    /// The token, from lodenctl token create
    #[arg(long, env = "LODEN_TOKEN", value_name = "TOKEN", required = true, hide_env_values = true)]
    pub token: JoinToken,

    /// This node's name; the host's name without it, or that which the token is for
    #[arg(long, env = "LODEN_NODE", value_name = "NAME")]
    pub node: Option<NodeId>,

    /// Directory to keep the identity in
    #[arg(
        long,
        env = "LODEN_IDENTITY",
        value_name = "DIR",
        default_value = IDENTITY,
        value_hint = ValueHint::DirPath
    )]
    pub identity: PathBuf,
}

/// Where the identity is kept.
const IDENTITY: &str = "/var/lib/loden/agent/identity";

const JOIN_HELP: &str = "\
The key is made on this host and stays here. The control plane is known by the CA whose hash is in the token. An agent
that runs here takes the new identity up by itself. Repeating the command after a lost answer spends nothing.

Exit codes:
  0  this host is a node
  1  the control plane cannot be reached or refuses, or the identity cannot be kept
  2  a flag or environment variable is wrong";

/// What cleanup does, and how it ends.
const CLEANUP_HELP: &str = "\
Removes tunnels with an alias loden:… and our name, routes of protocol 76, the nftables table inet loden and rules
with a comment loden-agent: …, the CNI configurations and the subnet file that an agent wrote, the socket of one that
was killed, and an agent's state. Of the settings it heeds --state-dir, --subnet-file, --cni-config-dir and --socket.
The identity stays, and so does the node's lease: see lodenctl lease release.

Exit codes:
  0  nothing of ours is left, save what is named as kept
  1  an agent runs, or something could not be removed; the reason is on standard error
  2  a flag, environment variable or the configuration file is wrong";

impl Flags {
    /// Checks what no flag can check alone.
    ///
    /// # Errors
    /// Names the flag, its value and the rule.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let mut seen = BTreeSet::new();
        match self.network.iter().find(|network| !seen.insert(*network)) {
            Some(twice) => Err(InvalidValue::new(twice, "must not be given twice").at("network")),
            None => Ok(()),
        }
    }

    /// Where an agent puts what it leaves.
    #[must_use]
    pub fn places(&self) -> Places {
        Places {
            state_dir: self.state_dir.clone(),
            subnet_file: self.subnet_file.clone(),
            cni_config_dir: self.cni_config_dir.clone(),
            socket: self.socket.clone(),
        }
    }

    /// What the agent itself is told.
    #[must_use]
    pub fn agent(&self) -> AgentConfig {
        AgentConfig {
            networks: self.network.clone(),
            state_dir: self.state_dir.clone(),
            subnet_file: Some(self.subnet_file.clone()),
            cni_config_dir: (!self.no_cni).then(|| self.cni_config_dir.clone()),
            firewall_insert: self.firewall_insert,
            blackhole_route: self.blackhole_route,
            udp_port: self.udp_port,
            selection: Selection {
                names: self.iface.clone(),
                patterns: self.iface_regex.clone(),
                can_reach: self.iface_can_reach,
                public_v4: self.public_ip,
                public_v6: self.public_ipv6,
            },
            timing: Timing::default(),
        }
    }
}

fn udp_port(text: &str) -> Result<Port, String> {
    let number = text.parse::<u32>().map_err(|_| "must be a number".to_owned())?;
    Port::try_from(number).map_err(|invalid| invalid.rule)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use loden_process::settings;

    use super::*;

    fn load(line: &[&str], file: &str) -> Result<Flags, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, file).unwrap();
        let line = ["loden-agent"].iter().chain(line);
        settings::load_from(line, &[path]).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn a_server_is_all_that_is_needed() {
        let flags = load(&["--server", "cp"], "").unwrap();
        assert_eq!(flags.agent().networks, ["default".parse().unwrap()]);
        assert_eq!(flags.state_dir, PathBuf::from("/var/lib/loden/agent"));
        assert_eq!(flags.socket, PathBuf::from("/run/loden/agent.sock"));
        assert!(load(&[], "").unwrap_err().contains("--server"));
    }

    #[test]
    fn the_file_has_the_flags_names_and_no_others() {
        let file = "server = [\"a\", \"b:1\"]\nnetwork = [\"blue\"]\niface = [\"eth0\", \"192.0.2.1\"]\n";
        let flags = load(&[], file).unwrap();
        assert_eq!(flags.server.len(), 2);
        assert_eq!(flags.agent().selection.names, ["eth0", "192.0.2.1"]);
        let error = load(&["--server", "cp"], "stat-dir = \"/x\"\n").unwrap_err();
        assert!(error.contains("stat-dir") && error.contains("state-dir"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_named() {
        let error = load(&["--server", "cp", "--network", "Blue"], "").unwrap_err();
        assert!(error.contains("Blue") && error.contains("DNS label"), "{error}");
        let error = load(&["--server", "cp", "--udp-port", "65536"], "").unwrap_err();
        assert!(error.contains("udp-port") && error.contains("65535"), "{error}");
        let error = load(&["--server", "cp", "--iface-regex", "("], "").unwrap_err();
        assert!(error.contains("iface-regex"), "{error}");
    }

    #[test]
    fn cni_configurations_have_a_directory_or_are_not_written() {
        let cni = |line: &[&str], file| load(line, file).unwrap().agent().cni_config_dir;
        assert_eq!(cni(&["--server", "cp"], ""), Some(PathBuf::from("/etc/cni/net.d")));
        assert_eq!(cni(&["--server", "cp"], "cni-config-dir = \"/x\"\n"), Some(PathBuf::from("/x")));
        assert_eq!(cni(&["--server", "cp", "--no-cni"], ""), None);
        assert_eq!(cni(&["--server", "cp"], "no-cni = true\n"), None);
    }

    #[test]
    fn a_network_is_given_once() {
        let flags = load(&["--server", "cp", "--network", "a,b", "--network", "a"], "").unwrap();
        assert_eq!(flags.check().unwrap_err().to_string(), "network: \"a\" must not be given twice");
        load(&["--server", "cp", "--network", "a,b"], "").unwrap().check().unwrap();
    }

    #[test]
    fn completions_and_cleanup_need_no_server() {
        for line in [["--state-dir", "/x", "cleanup"], ["cleanup", "--state-dir", "/x"]] {
            let flags = load(&line, "subnet-file = \"/y\"\n").unwrap();
            assert!(matches!(flags.command, Some(Command::Cleanup)));
            let places = flags.places();
            assert_eq!((places.state_dir, places.subnet_file), (PathBuf::from("/x"), PathBuf::from("/y")));
        }
        let flags = load(&["completions", "bash"], "").unwrap();
        assert!(matches!(flags.command, Some(Command::Completions { shell: Shell::Bash })));
    }
}
