//! What a demo run found out: plain data, measured in that run.
//!
//! ```text
//! story ──▶ Report ──▶ text (terminal)
//!                 └──▶ page (report.html) ──▶ drawing (SVG)
//! ```

use std::time::Duration;

use crate::traffic::PingReport;

/// Everything that one run measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// When it ran, for people: `2026-01-31 12:00:00 UTC`.
    pub date: String,
    /// What it ran on: kernel and processors.
    pub machine: String,
    /// The network.
    pub network: NetworkFacts,
    /// The hosts, the one that left included.
    pub hosts: Vec<HostFacts>,
    /// Ping and TCP of every ordered pair.
    pub pairs: Vec<Pair>,
    /// The way of a packet, step by step.
    pub way: Vec<Hop>,
    /// The pings that ran while things happened.
    pub timelines: Vec<Timeline>,
    /// What happened and what it did.
    pub outcomes: Vec<Outcome>,
    /// All backends, measured alike.
    pub compared: Vec<Compared>,
}

/// The network as the control plane lists it.
#[derive(Clone, Debug, Default)]
pub struct NetworkFacts {
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its VNI.
    pub vni: u32,
    /// How packets get from host to host, in words.
    pub between: String,
}

/// One host as the control plane and its kernel know it.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// The node's name.
    pub name: String,
    /// The leased subnet.
    pub subnet: String,
    /// The underlay address.
    pub underlay: String,
    /// Where it takes packets, in words.
    pub receives: String,
    /// MTU inside.
    pub mtu: u32,
    /// The container's address.
    pub container: String,
    /// Whether it joined during the run.
    pub joined_late: bool,
    /// Whether it was taken away during the run.
    pub left: bool,
}

/// What was measured from one container to another.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Host of the sender.
    pub from: String,
    /// Host of the receiver.
    pub to: String,
    /// Echo requests sent.
    pub sent: usize,
    /// Echo requests without reply.
    pub lost: usize,
    /// Median round trip; `None` when nothing came back.
    pub rtt: Option<Duration>,
    /// Rate of one TCP transfer in Gbit/s.
    pub tcp: f64,
}

/// One step on a packet's way.
#[derive(Clone, Debug)]
pub struct Hop {
    /// What decides here: `route`, `neighbour`, `FDB`, …
    pub what: String,
    /// Where: a namespace or a device.
    pub place: String,
    /// What was read from the kernel.
    pub found: String,
}

/// A ping that ran on while things happened.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// What it shows.
    pub title: String,
    /// Host of the sender.
    pub from: String,
    /// Host of the receiver.
    pub to: String,
    /// Every echo request, and what happened meanwhile.
    pub ping: PingReport,
}

/// What an event did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The event.
    pub event: String,
    /// What "converged" means for it.
    pub until: String,
    /// From the event until then.
    pub converged: Duration,
    /// Echo requests sent meanwhile.
    pub sent: usize,
    /// Echo requests without reply.
    pub lost: usize,
    /// Whether it went as promised.
    pub good: bool,
}

/// What was measured of a backend.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The backend.
    pub backend: String,
    /// MTU of containers.
    pub mtu: u32,
    /// Median round trip; `None` when nothing came back.
    pub rtt: Option<Duration>,
    /// The 99th percentile of it.
    pub late: Option<Duration>,
    /// Rate of one TCP transfer in Gbit/s.
    pub tcp: f64,
    /// Echo requests without reply, also while an agent was killed and started again.
    pub lost: usize,
    /// Echo requests sent.
    pub sent: usize,
}

/// A round trip as people read it.
#[must_use]
pub fn reply(round_trip: Option<Duration>) -> String {
    round_trip.map_or_else(|| "no reply".to_owned(), human)
}

/// A duration as people read it: three digits and a unit.
#[must_use]
pub fn human(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        small if small < 1000.0 => format!("{small:.0} µs"),
        middle if middle < 1e6 => format!("{} ms", three_digits(middle / 1e3)),
        large => format!("{} s", three_digits(large / 1e6)),
    }
}

fn three_digits(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let texts = [37, 999, 1_234, 56_780, 123_400, 1_250_000].map(|us| human(Duration::from_micros(us)));
        assert_eq!(texts, ["37 µs", "999 µs", "1.23 ms", "56.8 ms", "123 ms", "1.25 s"]);
    }
}
