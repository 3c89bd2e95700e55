//! Where an etcd is, as text: `etcd://10.0.0.1:2379,10.0.0.2:2379/loden`, or `etcds://` for TLS.

use std::fmt;
use std::str::FromStr;

use loden_proto::InvalidValue;

/// The port that etcd serves clients on, unless another one is said.
const PORT: u16 = 2379;
const FORM: &str = "must be etcd://HOST[:PORT],…/PREFIX, or etcds:// for TLS";
/// What is added to a prefix has to fit in as well.
const MAX_PREFIX: usize = 256;

/// The members of an etcd, and a prefix of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdAddress {
    /// Whether they are reached by TLS.
    pub tls: bool,
    /// Host and port of each, at least one.
    pub members: Vec<String>,
    /// With a `/` before it and none after it.
    pub prefix: String,
}

impl FromStr for EtcdAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let form = || InvalidValue::new(text, FORM);
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        let tls = match scheme {
            "etcd" => false,
            "etcds" => true,
            _ => return Err(form()),
        };
        let (members, prefix) = rest.split_once('/').ok_or_else(form)?;
        let members = members.split(',').map(member).collect::<Option<Vec<_>>>().ok_or_else(form)?;
        let is_name = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
        if prefix.len() > MAX_PREFIX || !prefix.split('/').all(is_name) {
            return Err(InvalidValue::new(
                text,
                "must have a prefix of printable characters, without a \"/\" at its end or twice: \
                 everything of the store has a name that begins with it",
            ));
        }
        Ok(Self { tls, members, prefix: format!("/{prefix}") })
    }
}

/// Host and port of a member; `None` if it is none.
fn member(text: &str) -> Option<String> {
    let member =
        if text.ends_with(']') || !text.contains(':') { format!("{text}:{PORT}") } else { text.to_owned() };
    let authority: http::uri::Authority = member.parse().ok()?;
    let is_bare = !member.contains('@') && !authority.host().is_empty() && authority.port_u16().is_some();
    is_bare.then_some(member)
}

impl fmt::Display for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "etcds" } else { "etcd" };
        write!(f, "{scheme}://{}{}", self.members.join(","), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written() {
        for (text, whole) in [
            ("etcd://a/loden", "etcd://a:2379/loden"),
            ("etcds://a.example:1,[::1]:2,[::2]/x/y", "etcds://a.example:1,[::1]:2,[::2]:2379/x/y"),
        ] {
            assert_eq!(text.parse::<EtcdAddress>().unwrap().to_string(), whole);
            assert_eq!(whole.parse::<EtcdAddress>().unwrap().to_string(), whole);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_its_rule() {
        for text in [
            "a:1/x",
            "http://a:1/x",
            "etcd://a:1",
            "etcd:///x",
            "etcd://a:b/x",
            "etcd://u:p@a:1/x",
            "etcd://a,/x",
        ] {
            let refused = text.parse::<EtcdAddress>().unwrap_err().to_string();
            assert_eq!(refused, format!("{text:?} {FORM}"));
        }
        for text in ["etcd://a/", "etcd://a/x/", "etcd://a//x", "etcd://a/x y"] {
            let refused = text.parse::<EtcdAddress>().unwrap_err().to_string();
            assert!(refused.contains("must have a prefix"), "{refused}");
        }
    }
}
