//! Chains of others, as far as they can be understood: what a rule asks of a packet, and what
//! becomes of one that fits.

use std::fmt::{self, Display};
use std::net::IpAddr;

use ipnet::IpNet;
use loden_proto::model::Family;

/// How the comment of a rule of ours in a chain of others begins.
pub const OURS: &str = "loden-agent: ";

/// Which chain: nft's family, the table, the name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ChainId {
    /// `ip`, `ip6` or `inet`.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub name: String,
}

impl ChainId {
    /// Whether packets of an address family enter it.
    #[must_use]
    pub fn takes(&self, family: Family) -> bool {
        match self.family.as_str() {
            "ip" => family == Family::V4,
            "ip6" => family == Family::V6,
            _ => true,
        }
    }
}

impl Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the chain {} of the table {} {}", self.name, self.family, self.table)
    }
}

/// A chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    /// Which.
    pub id: ChainId,
    /// Set where packets enter; other chains are jumped to.
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where packets enter a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Base {
    /// Which packets.
    pub hook: Hook,
    /// What reaches the end is dropped.
    pub drops: bool,
    /// The states of connections are known there.
    pub tracked: bool,
}

/// Which packets enter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// All that come in, before it is known where they go.
    Prerouting,
    /// Those for this host itself.
    Input,
    /// Those that are sent on.
    Forward,
    /// Those of this host itself.
    Output,
    /// All that leave.
    Postrouting,
}

/// A rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// By which it can be deleted.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// All have to fit.
    pub tests: Vec<Test>,
    /// What becomes of a packet that fits; `None`: it goes on to the next rule.
    pub verdict: Option<Verdict>,
}

impl Rule {
    /// Whether it is one of ours.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.comment.as_ref().is_some_and(|comment| comment.starts_with(OURS))
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It passes this chain.
    Accept,
    /// It is dropped, or rejected.
    Drop,
    /// Another chain, and the next rule when that one does not decide.
    Jump(String),
    /// Another chain instead of the rest of this one.
    Goto(String),
    /// Back to where this chain was jumped to from.
    Return,
}

/// What a rule asks of a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Test {
    /// One of the values, or, if `not`, none of them.
    Is {
        /// What is looked at, and the values.
        what: Field,
        /// The values are those that do not fit.
        not: bool,
    },
    /// It cannot be understood, or depends on more than is known here.
    Unknown,
}

/// A property of a packet with values for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Field {
    /// Names of devices that it comes in by; a `*` at the end stands for any rest.
    Incoming(Vec<String>),
    /// Names of devices that it goes out by.
    Outgoing(Vec<String>),
    /// Source addresses, as ranges.
    Source(Vec<(IpAddr, IpAddr)>),
    /// Destination addresses, as ranges.
    Destination(Vec<(IpAddr, IpAddr)>),
    /// States of its connection.
    State(Vec<String>),
    /// Protocols above IP.
    Protocol(Vec<String>),
    /// UDP destination ports, as ranges.
    UdpPort(Vec<(u16, u16)>),
    /// Address families.
    Family(Vec<Family>),
}

/// Packets that somebody wants to pass: the first of a connection, from any of the sources to any of
/// the destinations.
#[derive(Clone, Debug)]
pub struct Probe<'a> {
    /// Where they pass.
    pub hooks: &'static [Hook],
    /// Of which address family.
    pub family: Family,
    /// Devices that they may come in by. `None`: not known yet.
    pub incoming: Option<Vec<&'a str>>,
    /// Devices that they may go out by.
    pub outgoing: Option<Vec<&'a str>>,
    /// Sources; `None`: any.
    pub source: Option<IpNet>,
    /// Destinations; `None`: any.
    pub destination: Option<IpNet>,
    /// Destination port of UDP; `None`: any protocol.
    pub udp: Option<u16>,
}

/// What is known of a test or a rule.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Fit {
    Yes,
    /// It would depend on a device that there is none of yet, or on where the peers are.
    OnceKnown,
    Unknown,
    No,
}

/// Where probes end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// Nothing is known to be dropped.
    Passes,
    /// All are dropped by the policy of the base chain.
    Policy,
    /// All are dropped by a rule in this chain.
    Rule(String),
}

/// Sends a probe through a base chain. What is not understood decides nothing: neither a drop nor an
/// accept. `skip` leaves rules out.
#[must_use]
pub fn run(chains: &[Chain], base: &Chain, probe: &Probe<'_>, skip: impl Fn(&Rule) -> bool) -> End {
    let enters = base.base.filter(|base| probe.hooks.contains(&base.hook));
    let Some(Base { drops, tracked, .. }) = enters.filter(|_| base.id.takes(probe.family)) else {
        return End::Passes;
    };
    match (Walk { chains, probe, tracked, skip }).chain(base, 0) {
        Some(end) => end,
        None if drops => End::Policy,
        None => End::Passes,
    }
}

/// Jumps within jumps that are followed; the kernel allows 16.
const DEEPEST: usize = 16;

struct Walk<'a, S> {
    chains: &'a [Chain],
    probe: &'a Probe<'a>,
    tracked: bool,
    skip: S,
}

impl<S: Fn(&Rule) -> bool> Walk<'_, S> {
    /// None: no rule decides.
    fn chain(&self, chain: &Chain, depth: usize) -> Option<End> {
        for rule in chain.rules.iter().filter(|rule| !(self.skip)(rule)) {
            let fit = self.rule(rule);
            if fit > Fit::OnceKnown {
                continue;
            }
            let follow = |name: &String| {
                let id = ChainId { name: name.clone(), ..chain.id.clone() };
                let next = self.chains.iter().find(|chain| chain.id == id).filter(|_| depth < DEEPEST);
                next.and_then(|next| self.chain(next, depth + 1))
            };
            let (end, last) = match &rule.verdict {
                None => (None, false),
                Some(Verdict::Accept) => (Some(End::Passes), true),
                Some(Verdict::Drop) => (Some(End::Rule(chain.id.name.clone())), true),
                Some(Verdict::Jump(name)) => (follow(name), false),
                Some(Verdict::Goto(name)) => (follow(name), true),
                Some(Verdict::Return) => (None, true),
            };
            // Before there is a device nothing comes by it, and nothing is dropped.
            if fit == Fit::OnceKnown && end != Some(End::Passes) {
                continue;
            }
            if end.is_some() || last {
                return end;
            }
        }
        None
    }

    fn rule(&self, rule: &Rule) -> Fit {
        let is_port = |test: &Test| matches!(test, Test::Is { what: Field::UdpPort(_), not: false });
        // Whoever names the tunnel's port together with addresses means those of the nodes.
        let of_nodes = if rule.tests.iter().any(is_port) { Fit::OnceKnown } else { Fit::Unknown };
        rule.tests.iter().map(|test| self.test(test, of_nodes)).max().unwrap_or(Fit::Yes)
    }

    /// `of_nodes`: how addresses fit that are not known here.
    fn test(&self, test: &Test, of_nodes: Fit) -> Fit {
        let (Test::Is { what, not }, probe) = (test, self.probe) else { return Fit::Unknown };
        let fit = match what {
            Field::Incoming(names) => device(names, probe.incoming.as_deref()),
            Field::Outgoing(names) => device(names, probe.outgoing.as_deref()),
            Field::Source(ranges) => address(ranges, probe.family, probe.source, of_nodes),
            Field::Destination(ranges) => address(ranges, probe.family, probe.destination, of_nodes),
            Field::State(_) if !self.tracked => Fit::Unknown,
            Field::State(states) => sure(states.iter().any(|state| state == "new")),
            Field::Protocol(protocols) => match probe.udp {
                Some(_) => sure(protocols.iter().any(|protocol| protocol == "udp")),
                None => Fit::Unknown,
            },
            Field::UdpPort(ports) => match probe.udp {
                Some(port) => sure(ports.iter().any(|(first, last)| (*first..=*last).contains(&port))),
                None => Fit::Unknown,
            },
            Field::Family(families) => sure(families.contains(&probe.family)),
        };
        match (fit, not) {
            (Fit::Yes, true) => Fit::No,
            (Fit::No, true) if another_family(what, probe.family) => Fit::No,
            (Fit::No, true) => Fit::Yes,
            (fit, _) => fit,
        }
    }
}

const fn sure(fits: bool) -> Fit {
    if fits { Fit::Yes } else { Fit::No }
}

/// A test of addresses fits no packet of another family, whether it is negated or not.
fn another_family(what: &Field, family: Family) -> bool {
    let (Field::Source(ranges) | Field::Destination(ranges)) = what else { return false };
    ranges.iter().all(|(first, _)| Family::of(*first) != family)
}

fn device(names: &[String], known: Option<&[&str]>) -> Fit {
    let Some(known) = known else { return Fit::OnceKnown };
    let matches = |device: &str| {
        names.iter().any(|name| match name.strip_suffix('*') {
            Some(begin) => device.starts_with(begin),
            None => device == name,
        })
    };
    match known.iter().filter(|device| matches(device)).count() {
        0 => Fit::No,
        all if all == known.len() => Fit::Yes,
        _ => Fit::Unknown,
    }
}

fn address(ranges: &[(IpAddr, IpAddr)], family: Family, net: Option<IpNet>, not_known: Fit) -> Fit {
    let of_family = || ranges.iter().filter(|(first, _)| Family::of(*first) == family);
    let Some(net) = net else { return if of_family().next().is_some() { not_known } else { Fit::No } };
    let (begin, end) = (net.network(), net.broadcast());
    if of_family().any(|(first, last)| *first <= begin && end <= *last) {
        Fit::Yes
    } else if of_family().any(|(first, last)| *first <= end && begin <= *last) {
        Fit::Unknown
    } else {
        Fit::No
    }
}
