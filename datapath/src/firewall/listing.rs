//! What `nft -j` lists, read as chains. What is not known here makes a rule that decides nothing.

use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::Family;
use serde_json::Value;

use super::FirewallError;
use super::chains::{Base, Chain, ChainId, Field, Hook, Rule, Test, Verdict};
use super::masquerade::TABLE;

/// Statements that neither choose nor decide.
const NEUTRAL: [&str; 6] = ["counter", "log", "mangle", "notrack", "flow", "comment"];

/// The tables of others in which packets are filtered: family and name.
pub(super) fn filtering(text: &[u8]) -> Result<Vec<(String, String)>, FirewallError> {
    let mut tables: Vec<_> = chains(text)?
        .into_iter()
        .filter(|chain| chain.base.is_some())
        .map(|chain| (chain.id.family, chain.id.table))
        .filter(|(family, table)| (family.as_str(), table.as_str()) != ("inet", TABLE))
        .collect();
    tables.sort();
    tables.dedup();
    Ok(tables)
}

/// The chains of a listing, with their rules where it has them.
pub(super) fn chains(text: &[u8]) -> Result<Vec<Chain>, FirewallError> {
    let unreadable = |error: serde_json::Error| FirewallError::Unreadable(error.to_string());
    let listing: Value = serde_json::from_slice(text).map_err(unreadable)?;
    let objects = listing["nftables"].as_array();
    let objects =
        objects.ok_or_else(|| FirewallError::Unreadable("there is no array \"nftables\"".into()))?;
    let mut chains: Vec<Chain> = Vec::new();
    for chain in objects.iter().filter_map(|object| object.get("chain")) {
        let Some(id) = id(chain, "name") else { continue };
        chains.push(Chain { id, base: base(chain), rules: Vec::new() });
    }
    for rule in objects.iter().filter_map(|object| object.get("rule")) {
        let Some(id) = id(rule, "chain") else { continue };
        if let Some(chain) = chains.iter_mut().find(|chain| chain.id == id) {
            chain.rules.extend(rules(rule));
        }
    }
    Ok(chains)
}

fn id(object: &Value, name: &str) -> Option<ChainId> {
    let text = |key: &str| Some(object.get(key)?.as_str()?.to_owned());
    let family = text("family").filter(|family| ["ip", "ip6", "inet"].contains(&family.as_str()))?;
    Some(ChainId { family, table: text("table")?, name: text(name)? })
}

/// From this priority on the kernel knows to which connection a packet belongs.
const CONNTRACK: i64 = -200;

fn base(chain: &Value) -> Option<Base> {
    let hook = match chain["hook"].as_str()? {
        "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        _ => return None,
    };
    // One that translates addresses sees but the first packets of connections.
    if !["filter", "route"].contains(&chain["type"].as_str()?) {
        return None;
    }
    let tracked = match hook {
        Hook::Prerouting | Hook::Output => chain["prio"].as_i64()? > CONNTRACK,
        Hook::Input | Hook::Forward | Hook::Postrouting => true,
    };
    Some(Base { hook, drops: chain["policy"] == "drop", tracked })
}

/// A rule; one with a verdict map is as many as the map has entries.
fn rules(rule: &Value) -> Vec<Rule> {
    let mut one = Rule {
        handle: rule["handle"].as_u64().unwrap_or_default(),
        comment: rule["comment"].as_str().map(str::to_owned),
        tests: Vec::new(),
        verdict: None,
    };
    for statement in rule["expr"].as_array().into_iter().flatten() {
        let Some((kind, value)) = statement.as_object().and_then(|object| object.iter().next()) else {
            one.tests.push(Test::Unknown);
            continue;
        };
        match kind.as_str() {
            "match" => one.tests.push(test(value)),
            "vmap" => return mapped(&one, value),
            "xt" if value["type"] == "match" && value["name"] == "comment" => {}
            "xt" if value["type"] == "target" => {
                if value["name"] == "REJECT" {
                    one.verdict = Some(Verdict::Drop);
                }
            }
            kind if NEUTRAL.contains(&kind) => {}
            kind => match verdict(kind, value) {
                Some(verdict) => one.verdict = Some(verdict),
                None => one.tests.push(Test::Unknown),
            },
        }
    }
    vec![one]
}

fn mapped(before: &Rule, map: &Value) -> Vec<Rule> {
    let entries = map["data"]["set"].as_array().into_iter().flatten();
    let rule = |entry: &Value| {
        let (key, decides) = (entry.get(0)?, entry.get(1)?.as_object()?.iter().next()?);
        let what = field(&map["key"], &[key]).map_or(Test::Unknown, |what| Test::Is { what, not: false });
        let mut rule = before.clone();
        rule.tests.push(what);
        rule.verdict = verdict(decides.0, decides.1);
        Some(rule)
    };
    entries.filter_map(rule).collect()
}

fn verdict(kind: &str, value: &Value) -> Option<Verdict> {
    let target = || value["target"].as_str().map(str::to_owned);
    match kind {
        "accept" => Some(Verdict::Accept),
        "drop" | "reject" => Some(Verdict::Drop),
        "jump" => target().map(Verdict::Jump),
        "goto" => target().map(Verdict::Goto),
        "return" => Some(Verdict::Return),
        _ => None,
    }
}

fn test(value: &Value) -> Test {
    let not = match value["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=" | "!") => true,
        _ => return Test::Unknown,
    };
    let (left, right) = (&value["left"], &value["right"]);
    // A port says which protocol it is of, negated or not.
    if left["payload"]["protocol"] == "tcp" {
        return Test::Is { what: Field::Protocol(vec!["tcp".to_owned()]), not: false };
    }
    let values: Vec<&Value> = match right.get("set").unwrap_or(right) {
        Value::Array(values) => values.iter().collect(),
        value => vec![value],
    };
    field(left, &values).map_or(Test::Unknown, |what| Test::Is { what, not })
}

/// What is looked at, with the values.
fn field(left: &Value, values: &[&Value]) -> Option<Field> {
    let payload = |key: &str| left["payload"][key].as_str();
    if let Some(key) = left["meta"]["key"].as_str() {
        return match key {
            "iifname" | "iif" => texts(values).map(Field::Incoming),
            "oifname" | "oif" => texts(values).map(Field::Outgoing),
            "l4proto" => texts(values).map(Field::Protocol),
            "nfproto" | "protocol" => families(values).map(Field::Family),
            _ => None,
        };
    }
    if left["ct"]["key"] == "state" {
        return texts(values).map(Field::State);
    }
    match (payload("protocol")?, payload("field")?) {
        ("ip" | "ip6", "saddr") => each(values, addresses).map(Field::Source),
        ("ip" | "ip6", "daddr") => each(values, addresses).map(Field::Destination),
        ("ip", "protocol") | ("ip6", "nexthdr") => texts(values).map(Field::Protocol),
        ("udp" | "th", "dport") => each(values, ports).map(Field::UdpPort),
        _ => None,
    }
}

fn each<T>(values: &[&Value], read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    values.iter().map(|value| read(value)).collect()
}

/// Words; a set by name is not one.
fn texts(values: &[&Value]) -> Option<Vec<String>> {
    each(values, |value| value.as_str().filter(|text| !text.starts_with('@')).map(str::to_owned))
}

fn families(values: &[&Value]) -> Option<Vec<Family>> {
    each(values, |value| match value.as_str()? {
        "ipv4" | "ip" => Some(Family::V4),
        "ipv6" | "ip6" => Some(Family::V6),
        _ => None,
    })
}

fn addresses(value: &Value) -> Option<(IpAddr, IpAddr)> {
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    if let Some(range) = value.get("range") {
        return Some((address(range.get(0)?)?, address(range.get(1)?)?));
    }
    if let Some(prefix) = value.get("prefix") {
        let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
        let net = IpNet::new(address(&prefix["addr"])?, length).ok()?;
        return Some((net.network(), net.broadcast()));
    }
    let one = address(value)?;
    Some((one, one))
}

fn ports(value: &Value) -> Option<(u16, u16)> {
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    match value.get("range") {
        Some(range) => Some((port(range.get(0)?)?, port(range.get(1)?)?)),
        None => port(value).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 lists it, shortened.
    const LISTING: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "ip", "name": "filter", "handle": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip", "table": "filter", "name": "USER", "handle": 2}},
        {"chain": {"family": "inet", "table": "loden", "name": "x", "handle": 2, "type": "filter", "hook": "input", "prio": 0}},
        {"chain": {"family": "ip", "table": "nat", "name": "x", "handle": 2, "type": "nat", "hook": "input", "prio": 0}},
        {"chain": {"family": "bridge", "table": "b", "name": "x", "handle": 2, "type": "filter", "hook": "forward", "prio": 0}},
        {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 9, "comment": "loden-agent: from 10.8.0.0/22", "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "10.8.0.0", "len": 22}}}},
            {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 4, "expr": [
            {"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": {"set": ["docker0", "cni*"]}}},
            {"xt": {"type": "match", "name": "conntrack"}}, {"jump": {"target": "USER"}}]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 5, "expr": [
            {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": null}], ["established", {"accept": null}]]}}}]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "USER", "handle": 6, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"set": ["10.0.0.1", {"range": ["10.1.0.0", "10.1.0.9"]}]}}},
            {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"range": [8000, 9000]}}},
            {"limit": {"rate": 10, "per": "second"}}, {"xt": {"type": "target", "name": "REJECT"}}]}}
    ]}"#;

    #[test]
    fn chains_and_rules_are_read_and_what_is_strange_decides_nothing() {
        let chains = chains(LISTING.as_bytes()).unwrap();
        let forward = &chains[0];
        assert_eq!(forward.base, Some(Base { hook: Hook::Forward, drops: true, tracked: true }));
        assert_eq!((forward.rules.len(), chains[1].rules.len(), chains.len()), (4, 1, 4));
        assert!(forward.rules[0].is_ours());
        let from = Field::Source(vec![([10, 8, 0, 0].into(), [10, 8, 3, 255].into())]);
        assert_eq!(forward.rules[0].tests, [Test::Is { what: from, not: false }]);
        assert_eq!(forward.rules[0].verdict, Some(Verdict::Accept));
        let by = Field::Outgoing(vec!["docker0".into(), "cni*".into()]);
        assert_eq!(forward.rules[1].tests, [Test::Is { what: by, not: true }, Test::Unknown]);
        let states: Vec<_> = forward.rules[2..].iter().map(|rule| (&rule.tests[0], &rule.verdict)).collect();
        let state = |state: &str| Test::Is { what: Field::State(vec![state.into()]), not: false };
        let expected =
            [(state("invalid"), Some(Verdict::Drop)), (state("established"), Some(Verdict::Accept))];
        assert_eq!(states, expected.iter().map(|(test, verdict)| (test, verdict)).collect::<Vec<_>>());
        let user = &chains[1].rules[0];
        assert_eq!((user.tests.len(), &user.verdict), (3, &Some(Verdict::Drop)));
        assert_eq!(user.tests[1], Test::Is { what: Field::UdpPort(vec![(8000, 9000)]), not: false });
        assert_eq!(user.tests[2], Test::Unknown);
    }

    #[test]
    fn each_hook_is_read_with_whether_connections_are_known_there() {
        let read = |more: &str| {
            let chain = format!(
                r#"{{"nftables": [{{"chain": {{"family": "inet", "table": "t", "name": "c", {more}}}}}]}}"#
            );
            chains(chain.as_bytes()).unwrap()[0].base
        };
        let base = |hook, tracked| Some(Base { hook, drops: false, tracked });
        let raw = read(r#""type": "filter", "hook": "prerouting", "prio": -300, "policy": "accept""#);
        assert_eq!(raw, base(Hook::Prerouting, false));
        let mangle = read(r#""type": "route", "hook": "output", "prio": -150, "policy": "accept""#);
        assert_eq!(mangle, base(Hook::Output, true));
        let after = read(r#""type": "filter", "hook": "postrouting", "prio": -300"#);
        assert_eq!(after, base(Hook::Postrouting, true));
        assert_eq!(read(r#""type": "filter", "hook": "ingress", "dev": "eth0", "prio": 0"#), None);
        assert_eq!(read(r#""type": "nat", "hook": "output", "prio": -100"#), None);
    }

    #[test]
    fn only_tables_of_others_that_filter_are_read() {
        assert_eq!(filtering(LISTING.as_bytes()).unwrap(), [("ip".to_owned(), "filter".to_owned())]);
        let error = filtering(b"{}").unwrap_err().to_string();
        assert!(error.contains("nftables"), "{error}");
        assert!(filtering(b"nothing").is_err());
    }
}
