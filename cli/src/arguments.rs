//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use loden_process::completions::Shell;
use loden_transport::ServerAddress;

use crate::output::Output;
use crate::{authority, lease, network, node, peers, reservation, token};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the control plane refused it, or it failed
  2  a flag, environment variable or the configuration file is wrong
  3  the named resource does not exist
  4  the control plane cannot be reached

Connection: --server and --identity, or LODEN_SERVER and LODEN_IDENTITY, or
`server` and `identity` in the configuration file.";

/// Heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// Looks at and changes the networks, leases and nodes of a Loden cluster
#[derive(Debug, Parser)]
#[command(name = "lodenctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,

    /// How results are printed
    #[arg(short, long, env = "LODEN_OUTPUT", value_name = "FORMAT", default_value = "table", global = true, help_heading = GLOBAL)]
    pub(crate) output: Output,

    /// How long to wait for an answer once connected ("10s", "1m")
    #[arg(long, env = "LODEN_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = some_time, global = true, help_heading = GLOBAL)]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) noun: Noun,
}

/// Where the control plane is and who we are.
#[derive(Args, Debug)]
pub(crate) struct ConnectionArgs {
    /// Control plane to dial, host:port; several are tried in turn
    #[arg(long, env = "LODEN_SERVER", value_name = "ADDRESS", value_delimiter = ',', global = true, help_heading = GLOBAL)]
    pub(crate) server: Vec<ServerAddress>,

    /// Directory with ca.crt, tls.crt and tls.key of an admin or reader
    #[arg(long, env = "LODEN_IDENTITY", value_name = "DIR", value_hint = ValueHint::DirPath, global = true, help_heading = GLOBAL)]
    pub(crate) identity: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    #[command(flatten)]
    Remote(RemoteNoun),
    /// Prints shell completions
    Completions {
        /// The shell to make them for
        shell: Shell,
    },
}

/// What needs the control plane.
#[derive(Debug, Subcommand)]
pub(crate) enum RemoteNoun {
    /// Networks: address pools, a VNI and a backend
    #[command(subcommand)]
    Network(network::Verb),
    /// Leases: the subnets of a node in a network
    #[command(subcommand)]
    Lease(lease::Verb),
    /// Reservations: subnets bound to a node for ever
    #[command(subcommand)]
    Reservation(reservation::Verb),
    /// Nodes: hosts that run an agent
    #[command(subcommand)]
    Node(node::Verb),
    /// Peers: what the nodes of a network know of each other
    #[command(subcommand)]
    Peers(peers::Verb),
    /// CAs: who stamps certificates, and the change from one to the next
    #[command(subcommand)]
    Ca(authority::Verb),
    /// Tokens: what lets hosts join
    #[command(subcommand)]
    Token(token::Verb),
    /// How the control plane is, and which nodes are not converged and why
    Status,
}

impl RemoteNoun {
    /// Whether it goes on until it is told to end.
    pub(crate) const fn is_endless(&self) -> bool {
        match self {
            Self::Peers(_) => true,
            Self::Ca(verb) => verb.is_endless(),
            _ => false,
        }
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("must be longer than 0s".to_owned()) } else { Ok(time) }
}

/// Where the configuration file is looked for.
pub(crate) fn default_files() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))
        .map(|directory| directory.join("loden/lodenctl.toml"));
    own.into_iter().chain([PathBuf::from("/etc/loden/lodenctl.toml")]).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use loden_process::settings;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        settings::load_from(line.split(' '), &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_sound() {
        settings::command::<Arguments>(&default_files()).debug_assert();
    }

    #[test]
    fn every_command_is_understood() {
        for line in [
            "lodenctl network create blue --pool 10.1.0.0/16 --pool fd00::/48:64 --vni 7 --mtu 1400 --port 4789",
            "lodenctl network create blue --pool 10.1.0.0/16 --backend alloc --lease-ttl 1h",
            "lodenctl network list -o json",
            "lodenctl network get blue",
            "lodenctl network update blue --add-pool 10.2.0.0/16:26 --mtu 1300",
            "lodenctl network update blue --remove-pool 10.2.0.0/16 --no-mtu",
            "lodenctl network delete blue --force",
            "lodenctl lease list",
            "lodenctl lease list blue --server a:1,b:2 --identity /id",
            "lodenctl lease get blue node-1",
            "lodenctl lease release blue node-1",
            "lodenctl reservation create blue node-1 10.1.7.0/24 fd00:0:0:7::/64",
            "lodenctl reservation list",
            "lodenctl reservation delete blue node-1",
            "lodenctl node list",
            "lodenctl node get node-1",
            "lodenctl node revoke node-1",
            "lodenctl node revoke node-1 --allow-missing",
            "lodenctl node delete node-1",
            "lodenctl token create --node node-1 --network blue,red --ttl 1h",
            "lodenctl token create --uses 100",
            "lodenctl token list",
            "lodenctl ca status",
            "lodenctl ca rotate --force",
            "lodenctl ca retire",
            "lodenctl token delete 0a1b2c3d",
            "lodenctl peers watch blue --once",
            "lodenctl status --timeout 1m",
            "lodenctl completions fish",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn mistakes_name_flag_value_and_rule() {
        let cases = [
            ("lodenctl status --server http://a:1", "must begin with https://"),
            ("lodenctl network create blue", "--pool <CIDR[:LEN]>"),
            ("lodenctl network create blue --pool 10.0.0.0/8 --vni many", "--vni"),
            ("lodenctl network update blue", "required"),
            ("lodenctl network update blue --mtu 1300 --no-mtu", "cannot be used with"),
            ("lodenctl reservation create blue node-1", "<SUBNET>"),
            ("lodenctl status --timeout 0s", "'0s' for '--timeout <DURATION>': must be longer than 0s"),
            ("lodenctl status --timeout soon", "--timeout"),
            ("lodenctl status -o xml", "[possible values: table, json]"),
        ];
        for (line, expected) in cases {
            let message = parse(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }

    #[test]
    fn the_connection_may_stand_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lodenctl.toml");
        fs::write(&path, "server = ['a:1', 'b']\nidentity = '/etc/loden/admin'\noutput = 'json'\n").unwrap();
        let arguments: Arguments = settings::load_from(["lodenctl", "status"], &[path]).unwrap();
        let servers: Vec<_> = arguments.connection.server.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["https://a:1", "https://b:7443"]);
        assert_eq!(arguments.connection.identity, Some("/etc/loden/admin".into()));
        assert_eq!(arguments.output, Output::Json);
    }
}
