//! Flags, environment and file of the control plane.

mod clients;
mod store;
mod times;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use loden_process::completions::Shell;
use loden_process::exit;
use loden_process::logging::LogArgs;
use loden_proto::InvalidValue;
use loden_proto::model::Vni;
use loden_proto::names::ClusterName;
use loden_transport::Principal;

pub use self::clients::ClientArgs;
use crate::identity::{IssuedRole, ServerName};

pub use self::store::{FlagFileError, StoreAddress, StoreArgs, StoreCommand};
use self::times::{at_most_a_year, certificate_validity, lease_ttl, some_time, validity};

/// The configuration file that is read when none is named.
pub const DEFAULT_FILE: &str = "/etc/loden/control-plane.toml";

/// The Loden control plane: leases subnets to nodes and tells each the others
#[derive(Clone, Debug, Parser)]
#[command(name = "loden-control-plane", version, after_help = exit::DAEMON_HELP)]
pub struct Arguments {
    /// How it serves.
    #[command(flatten)]
    pub config: Config,
    /// What it logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// What to do; without one: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve (the default)
    Serve,
    /// Make a client's certificate and key with the cluster's CA
    ///
    /// Needs only the CA's files in the state directory, no store and no running server.
    Issue(IssueArgs),
    /// After the state was lost: have the next start collect leases from the agents
    ///
    /// To be run before that start, when the whole state directory was lost and the agents still forward. From
    /// then on no agent deletes a peer, and no new node is given a subnet, until adoption ends (--adopt-for).
    Recover,
    /// Make a store in an etcd, copy a store, or share another CA in one
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print a shell's completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// What to issue.
#[derive(Args, Clone, Debug)]
pub struct IssueArgs {
    /// What for
    pub role: IssuedRole,
    /// For whom
    pub name: String,
    /// Directory to write ca.crt, tls.crt and tls.key into
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long the certificate lives
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = validity)]
    pub validity: Duration,
    /// Of a node that was revoked: what `lodenctl node revoke` has told
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub epoch: u32,
    /// Replace a bundle that is there
    #[arg(long)]
    pub force: bool,
}

/// How the control plane serves.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of the gRPC service (mutual TLS)
    #[arg(long, env = "LODEN_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:7443")]
    pub listen: SocketAddr,

    /// Address of /livez, /readyz and /metrics (plain HTTP)
    #[arg(long, env = "LODEN_OPERATIONS", value_name = "ADDRESS", default_value = "0.0.0.0:7480")]
    pub operations: SocketAddr,

    /// Directory of the store and, in pki/, of the cluster's CA
    #[arg(
        long,
        env = "LODEN_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/loden/control-plane",
        global = true
    )]
    pub state_dir: PathBuf,

    /// Where the records are kept.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Where other control planes on the same store reach this one
    #[arg(long, env = "LODEN_REPLICA_ADDRESS", value_name = "ADDRESS")]
    pub replica_address: Option<SocketAddr>,

    /// The cluster's name: the trust domain of its certificates
    #[arg(long, env = "LODEN_CLUSTER", value_name = "NAME", default_value = "loden")]
    pub cluster: ClusterName,

    /// This control plane's name in its certificate
    #[arg(long, env = "LODEN_NAME", value_name = "NAME", default_value = "control-plane")]
    pub name: Principal,

    /// DNS name or IP address to have in the server's certificate as well; may be repeated
    #[arg(long = "advertise-name", env = "LODEN_ADVERTISE_NAME", value_name = "NAME", value_delimiter = ',')]
    pub advertise_names: Vec<ServerName>,

    /// How long the certificates of this control plane and of nodes that have joined live; they are renewed at half of it
    #[arg(
        long,
        env = "LODEN_CERTIFICATE_VALIDITY",
        value_name = "TIME",
        default_value = "24h",
        value_parser = certificate_validity
    )]
    pub certificate_validity: Duration,

    /// How long a lease lives without renewal, in networks that do not say
    #[arg(long, env = "LODEN_LEASE_TTL", value_name = "TIME", default_value = "24h", value_parser = lease_ttl)]
    pub lease_ttl: Duration,

    /// How long a subnet or VNI that was given back is kept from others
    #[arg(
        long,
        env = "LODEN_COOLDOWN",
        value_name = "TIME",
        default_value = "1h",
        value_parser = at_most_a_year
    )]
    pub cooldown: Duration,

    /// VNIs to give to networks that ask for none; may be repeated
    #[arg(
        long = "vni-range",
        env = "LODEN_VNI_RANGE",
        value_name = "FIRST-LAST",
        default_value = "1-16777215",
        value_delimiter = ','
    )]
    pub vni_ranges: Vec<VniRange>,

    /// How long after a start new nodes wait for the known ones to come back
    #[arg(
        long,
        env = "LODEN_SETTLE",
        value_name = "TIME",
        default_value = "15s",
        value_parser = at_most_a_year
    )]
    pub settle: Duration,

    /// How long leases are only taken over from agents after the store was lost
    #[arg(
        long,
        env = "LODEN_ADOPT_FOR",
        value_name = "TIME",
        default_value = "10m",
        value_parser = at_most_a_year
    )]
    pub adopt_for: Duration,

    /// How long a client may leave its watch or an answer unread before its connection is ended
    #[arg(long, env = "LODEN_MAX_LAG", value_name = "TIME", default_value = "60s", value_parser = some_time)]
    pub max_lag: Duration,

    /// How often a watch carries a sign of life
    #[arg(long, env = "LODEN_HEARTBEAT", value_name = "TIME", default_value = "3s", value_parser = some_time)]
    pub heartbeat: Duration,

    /// When clients are let go.
    #[command(flatten)]
    pub clients: ClientArgs,

    /// Accept loopback addresses as underlay, for fleets on one host
    #[arg(long, env = "LODEN_ALLOW_LOOPBACK_UNDERLAY")]
    pub allow_loopback_underlay: bool,
}

impl Config {
    /// The directory of the CA.
    #[must_use]
    pub fn pki_dir(&self) -> PathBuf {
        self.state_dir.join("pki")
    }

    /// The directory of a store of sled, unless another one is named.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.state_dir.join("store")
    }

    /// Where the records are kept.
    #[must_use]
    pub fn store(&self) -> StoreAddress {
        self.store.store.clone().unwrap_or_else(|| StoreAddress::Sled(self.store_dir()))
    }

    /// Checks what no flag can check alone.
    ///
    /// # Errors
    /// Names the flag, its value and the rule.
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.store.check()?;
        if self.max_lag <= self.heartbeat {
            let value = humantime::format_duration(self.max_lag);
            let rule =
                format!("must be longer than the heartbeat, {}", humantime::format_duration(self.heartbeat));
            return Err(InvalidValue::new(value, rule).at("max-lag"));
        }
        Ok(())
    }
}

impl Default for Config {
    /// What a command line without flags gives, whatever the environment is.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            operations: SocketAddr::from(([0, 0, 0, 0], 7480)),
            state_dir: PathBuf::from("/var/lib/loden/control-plane"),
            store: StoreArgs::default(),
            replica_address: None,
            cluster: literal("loden"),
            name: literal("control-plane"),
            advertise_names: Vec::new(),
            certificate_validity: Duration::from_secs(24 * 3600),
            lease_ttl: Duration::from_secs(24 * 3600),
            cooldown: Duration::from_secs(3600),
            vni_ranges: vec![literal("1-16777215")],
            settle: Duration::from_secs(15),
            adopt_for: Duration::from_secs(600),
            max_lag: Duration::from_secs(60),
            heartbeat: Duration::from_secs(3),
            clients: ClientArgs::default(),
            allow_loopback_underlay: false,
        }
    }
}

/// A value that is written in this file.
fn literal<T: FromStr<Err = InvalidValue>>(text: &str) -> T {
    // Every caller passes a literal, and a test makes them all.
    text.parse().unwrap_or_else(|invalid| unreachable!("{invalid}"))
}

/// VNIs from the first to the last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VniRange(pub RangeInclusive<Vni>);

impl FromStr for VniRange {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let form = || InvalidValue::new(text, "must be FIRST-LAST, two VNIs of 1 to 16777215");
        let (first, last) = text.split_once('-').ok_or_else(form)?;
        let vni = |digits: &str| -> Result<Vni, InvalidValue> {
            Vni::try_from(digits.trim().parse::<u32>().map_err(|_| form())?)
        };
        let (first, last) = (vni(first)?, vni(last)?);
        if first > last {
            return Err(InvalidValue::new(text, "must have its lower VNI first"));
        }
        Ok(Self(first..=last))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use loden_process::settings;

    use super::*;

    fn load(line: &[&str]) -> Result<Arguments, clap::Error> {
        let line = ["loden-control-plane"].iter().chain(line);
        settings::load_from(line, &[])
    }

    #[test]
    fn the_flags_are_well_formed_and_their_defaults_are_the_documented_ones() {
        Arguments::command().debug_assert();
        let parsed = load(&[]).unwrap().config;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
        parsed.check().unwrap();
    }

    #[test]
    fn issue_takes_the_state_directory_on_either_side() {
        for line in [
            ["--state-dir", "/x", "issue", "node", "a", "--out", "/o"],
            ["issue", "node", "a", "--out", "/o", "--state-dir", "/x"],
        ] {
            let arguments = load(&line).unwrap();
            assert_eq!(arguments.config.pki_dir(), PathBuf::from("/x/pki"));
            assert!(matches!(arguments.command, Some(Command::Issue(_))));
        }
        assert!(load(&["issue", "king", "a", "--out", "/o"]).is_err());
    }

    #[test]
    fn flags_of_serving_stand_on_either_side_of_serve_and_before_everything_else() {
        for line in [["--listen", "[::1]:1", "serve"], ["serve", "--listen", "[::1]:1"]] {
            let arguments = load(&line).unwrap();
            assert_eq!(arguments.config.listen, SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 1)));
            assert!(matches!(arguments.command, Some(Command::Serve)));
        }
        let issue = ["issue", "node", "a", "--out", "/o", "--name", "x"];
        for (line, flag) in [(&["recover", "--adopt-for", "1h"][..], "--adopt-for"), (&issue, "--name")] {
            let error = load(line).unwrap_err().to_string();
            let place = format!("'{flag}' is a flag of loden-control-plane itself");
            assert!(error.contains(&place), "{line:?}: {error}");
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_its_rule() {
        for (line, rule) in [
            (["--vni-range", "0-5"], "must be a VNI"),
            (["--vni-range", "9-5"], "lower VNI first"),
            (["--vni-range", "9"], "FIRST-LAST"),
            (["--lease-ttl", "1s"], "10s to 365d"),
            (["--max-lag", "0s"], "50ms to 24h"),
            (["--cluster", "A B"], "DNS name"),
            (["--advertise-name", "a b"], "DNS name or an IP address"),
            (["--listen", "7443"], "invalid socket address"),
        ] {
            let error = load(&line).unwrap_err().to_string();
            assert!(error.contains(rule), "{line:?}: {error}");
        }
        let config = load(&["--max-lag", "2s"]).unwrap().config;
        let error = config.check().unwrap_err().to_string();
        assert_eq!(error, "max-lag: \"2s\" must be longer than the heartbeat, 3s");
    }

    #[test]
    fn a_certificate_lives_a_minute_to_a_year() {
        let issue = |time| load(&["issue", "node", "a", "--out", "/o", "--validity", time]);
        assert!(issue("1m").is_ok() && issue("365d").is_ok());
        for (time, rule) in [("59s", "must be 1m to 365d"), ("366d", "at most 365d")] {
            let error = issue(time).unwrap_err().to_string();
            assert!(error.contains("--validity") && error.contains(rule), "{error}");
        }
    }

    #[test]
    fn times_that_no_clock_can_count_are_refused() {
        for flag in ["--settle", "--adopt-for", "--cooldown"] {
            let refused = load(&[flag, "400000000000y"]).unwrap_err();
            assert!(refused.to_string().contains("at most 365d"), "{refused}");
            assert!(load(&[flag, "0s"]).is_ok());
        }
    }
}
