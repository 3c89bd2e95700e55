//! Where a control plane is dialled: `https://host:port` or `host:port`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The control plane's gRPC port.
pub const DEFAULT_PORT: u16 = 7443;

/// A host (a DNS name or an address) and a port to dial. It says where to
/// connect to, never whom to trust: that is the certificate's DNS name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServerAddress {
    host: String,
    port: u16,
}

/// Not an address of a server.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("server address {value:?} {rule}")]
pub struct ServerAddressError {
    value: String,
    rule: &'static str,
}

impl ServerAddress {
    /// DNS name or address, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ServerAddress {
    type Err = ServerAddressError;

    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        let refuse = |rule| ServerAddressError { value: text.to_owned(), rule };
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest.strip_suffix('/').unwrap_or(rest),
            Some(_) => return Err(refuse("must begin with https:// or have no scheme")),
            None => text,
        };
        if is_bare_v6(rest) {
            return Err(refuse("must have its IPv6 address in brackets: [2001:db8::1]:7443"));
        }
        let (host, port) =
            split(rest).ok_or_else(|| refuse("must be host:port, [v6 address]:port or host"))?;
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| refuse("must have a port from 1 to 65535"))?,
            None => DEFAULT_PORT,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// An IPv6 address without brackets, of which nobody knows whether its end is a port.
fn is_bare_v6(text: &str) -> bool {
    let before = text.rsplit_once(':').map_or("", |(before, _)| before);
    [text, before].iter().any(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// Host and port; `None` when the host is not one.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return if rest.is_empty() {
            Some((host, None))
        } else {
            Some((host, Some(rest.strip_prefix(':')?)))
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    (!host.is_empty() && host.bytes().all(plain)).then_some((host, port))
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let cases = [
            ("https://cp.example.org:7000", "https://cp.example.org:7000"),
            ("cp:7000", "https://cp:7000"),
            ("cp", "https://cp:7443"),
            ("https://10.0.0.1:1/", "https://10.0.0.1:1"),
            ("[fd00::1]:7443", "https://[fd00::1]:7443"),
            ("[::1]", "https://[::1]:7443"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn other_forms_are_refused_with_value_and_rule() {
        for text in ["fd00::1", "2001:db8::1:7443", "https://2001:db8:77::1", "1:2:3:4:5:6:7:8:7443"] {
            let message = text.parse::<ServerAddress>().unwrap_err().to_string();
            assert!(message.contains("in brackets: [2001:db8::1]:7443"), "{message}");
        }
        for text in
            ["", "http://cp:1", "cp:0", "cp:65536", "cp:", "fd00::1", "[cp]:1", "[::1]1", "a b", "cp/x:1"]
        {
            let message = text.parse::<ServerAddress>().unwrap_err().to_string();
            assert!(message.contains(&format!("{text:?}")) && message.contains("must"), "{message}");
        }
    }
}
