//! Secrets on the wire: for those whom they are for, and for nobody's log.

use std::fmt;

use crate::v1;

/// Takes the keys out of an endpoint, for those who see it without being its peers; whether there was one.
pub fn mask_keys(endpoint: &mut v1::Endpoint) -> bool {
    let mut masked = false;
    for receiver in &mut endpoint.receivers {
        if let Some(v1::receiver::Kind::Udp(udp)) = &mut receiver.kind {
            masked |= std::mem::take(&mut udp.key) != 0;
        }
    }
    masked
}

impl fmt::Debug for v1::UdpReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family: _, vni, port, key, mtu } = self;
        f.debug_struct("UdpReceiver")
            .field("family", &self.family())
            .field("vni", vni)
            .field("port", port)
            .field("key", if *key == 0 { &0 } else { &"secret" })
            .field("mtu", mtu)
            .finish()
    }
}

/// A secret that is there, or is not.
const fn shown(secret: &str) -> &'static str {
    if secret.is_empty() { "" } else { "secret" }
}

impl fmt::Debug for v1::JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, node, networks, uses_left, create_time, expire_time, token } = self;
        f.debug_struct("JoinToken")
            .field("name", name)
            .field("node", node)
            .field("networks", networks)
            .field("uses_left", uses_left)
            .field("create_time", create_time)
            .field("expire_time", expire_time)
            .field("token", &shown(token))
            .finish()
    }
}

impl fmt::Debug for v1::JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, node, certificate_request } = self;
        f.debug_struct("JoinRequest")
            .field("token", &shown(token))
            .field("node", node)
            .field("certificate_request", &format_args!("{} bytes", certificate_request.len()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let token = "0123abcd.secret.hash".to_owned();
        let request = v1::JoinRequest { token: token.clone(), ..v1::JoinRequest::default() };
        let made = v1::JoinToken { name: "tokens/0123abcd".into(), token, ..v1::JoinToken::default() };
        let shown = format!("{request:?} {made:?}");
        assert!(shown.contains("\"secret\"") && !shown.contains("secret.hash"), "{shown}");
    }

    #[test]
    fn a_key_is_neither_shown_nor_told_to_others() {
        let family = v1::AddressFamily::Ipv4.into();
        let udp = v1::UdpReceiver { family, vni: 7, port: 8285, key: 0x1122_3344, mtu: 1460 };
        let kinds = [
            v1::receiver::Kind::Routed(v1::RoutedReceiver { family, mtu: None }),
            v1::receiver::Kind::Udp(udp),
        ];
        let receivers = kinds.map(|kind| v1::Receiver { kind: Some(kind) }).into();
        let mut endpoint = v1::Endpoint { receivers, ..v1::Endpoint::default() };
        let shown = format!("{:?}", endpoint.receivers[1]);
        assert!(shown.contains("vni: 7") && shown.contains("key: \"secret\""), "{shown}");
        assert!(!shown.contains(&0x1122_3344.to_string()), "{shown}");

        let mut masked = endpoint.clone();
        assert!(mask_keys(&mut masked));
        let wanted = v1::UdpReceiver { key: 0, ..udp };
        assert_eq!(masked.receivers[1].kind, Some(v1::receiver::Kind::Udp(wanted)));
        assert!(!mask_keys(&mut masked), "there is none left");
        endpoint.receivers.pop();
        assert!(!mask_keys(&mut endpoint));
    }
}
