//! Flags about clients: when they are let go, and who tells from where they come.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

/// When clients are let go, and who tells from where they come.
#[derive(Args, Clone, Debug)]
pub struct ClientArgs {
    /// Over what time clients are asked to go at shutdown, where another replica serves
    #[arg(long, env = "LODEN_DRAIN", value_name = "TIME", default_value = "5s", value_parser = drain)]
    pub drain: Duration,

    /// How old a connection becomes, give or take a tenth, before its client is asked to come back over another one
    #[arg(
        long,
        env = "LODEN_MAX_CONNECTION_AGE",
        value_name = "TIME",
        default_value = "1h",
        value_parser = connection_age
    )]
    pub max_connection_age: Duration,

    /// Network of load balancers: connections from there must begin with a header of the PROXY protocol, version 2,
    /// which says from where they come; may be repeated
    #[arg(
        long,
        env = "LODEN_PROXY_PROTOCOL",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = network
    )]
    pub proxy_protocol: Vec<IpNet>,
}

impl Default for ClientArgs {
    /// What a command line without flags gives, whatever the environment is.
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(5),
            max_connection_age: Duration::from_secs(3600),
            proxy_protocol: Vec::new(),
        }
    }
}

fn drain(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time <= Duration::from_secs(600) { Ok(time) } else { Err("must be at most 10m".to_owned()) }
}

/// Under a second clients would do little else.
fn connection_age(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600)).contains(&time) {
        Ok(time)
    } else {
        Err("must be 1s to 365d".to_owned())
    }
}

/// An address alone is the network of one.
fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = network.map_err(|_| "must be an address or a network such as 192.0.2.0/24".to_owned())?;
    if network == network.trunc() {
        Ok(network)
    } else {
        Err(format!("has host bits set; the network is {}", network.trunc()))
    }
}

#[cfg(test)]
mod tests {
    use loden_process::settings;

    use super::*;
    use crate::config::Arguments;

    fn load(line: &[&str]) -> Result<ClientArgs, String> {
        let line = ["loden-control-plane"].iter().chain(line);
        let arguments = settings::load_from::<Arguments>(line, &[]);
        arguments.map(|arguments| arguments.config.clients).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bad_value_is_refused_with_its_rule() {
        for (line, rule) in [
            (["--drain", "11m"], "must be at most 10m"),
            (["--drain", "5"], "time unit needed"),
            (["--max-connection-age", "0s"], "must be 1s to 365d"),
            (["--max-connection-age", "366d"], "must be 1s to 365d"),
            (["--proxy-protocol", "lb"], "must be an address or a network"),
            (["--proxy-protocol", "192.0.2.1/24"], "has host bits set; the network is 192.0.2.0/24"),
        ] {
            let error = load(&line).unwrap_err();
            assert!(error.contains(line[0]) && error.contains(rule), "{line:?}: {error}");
        }
        assert_eq!(load(&["--drain", "0s"]).unwrap().drain, Duration::ZERO);
        let several =
            load(&["--proxy-protocol", "192.0.2.10,2001:db8::/64", "--proxy-protocol", "198.51.100.0/24"]);
        let shown: Vec<_> = several.unwrap().proxy_protocol.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.10/32", "2001:db8::/64", "198.51.100.0/24"]);
        assert_eq!(load(&["--drain", "10m"]).unwrap().drain, Duration::from_secs(600));
    }
}
