//! A network's backend: as it is typed, changed and shown.

use clap::{Args, ValueEnum};
use loden_proto::v1;
use serde::Serialize;

use crate::failure::Failure;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Kind {
    /// Kernel VXLAN
    Vxlan,
    /// Routes by next hop, between nodes on one link
    HostGw,
    /// A tunnel of the agents' own over UDP, in userspace
    Udp,
    /// Leases only; nothing is programmed
    Alloc,
}

/// What the UDP tunnel's device hands out; each includes what comes after it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Offload {
    /// UDP that is not cut into datagrams yet
    Uso,
    /// TCP that is not cut into segments yet
    Tso,
    /// Packets as they go over the wire
    Plain,
}

/// The backend of a network that is created.
#[derive(Args, Debug)]
#[group(skip)]
pub(super) struct Asked {
    /// How nodes reach each other
    #[arg(long, value_enum, default_value_t = Kind::Vxlan)]
    backend: Kind,

    /// UDP port of VXLAN or of the UDP tunnel; without it 8472 or 8285
    #[arg(long)]
    port: Option<u32>,

    /// VXLAN learns MAC addresses from received frames
    #[arg(long)]
    learning: bool,

    /// VXLAN carries the group policy extension
    #[arg(long)]
    gbp: bool,

    /// VXLAN sends to nodes on the same link without encapsulation
    #[arg(long)]
    direct_routing: bool,

    /// What the UDP tunnel's device hands out at most
    #[arg(long, value_enum, value_name = "OFFLOAD")]
    udp_offload: Option<Offload>,

    /// The UDP tunnel sends each datagram by itself
    #[arg(long)]
    udp_single_sends: bool,

    /// The UDP tunnel receives each datagram by itself
    #[arg(long)]
    udp_single_receives: bool,
}

/// What of a backend can be changed.
#[derive(Args, Debug)]
#[group(skip)]
pub(super) struct Changes {
    /// VXLAN sends to nodes on the same link without encapsulation
    #[arg(long, group = "change", conflicts_with = "no_direct_routing")]
    direct_routing: bool,

    /// VXLAN sends to all nodes through the tunnel
    #[arg(long, group = "change")]
    no_direct_routing: bool,

    /// What the UDP tunnel's device hands out at most
    #[arg(long, value_enum, value_name = "OFFLOAD", group = "change")]
    udp_offload: Option<Offload>,

    /// The UDP tunnel sends each datagram by itself
    #[arg(long, group = "change", conflicts_with = "no_udp_single_sends")]
    udp_single_sends: bool,

    /// The UDP tunnel sends many datagrams at once
    #[arg(long, group = "change")]
    no_udp_single_sends: bool,

    /// The UDP tunnel receives each datagram by itself
    #[arg(long, group = "change", conflicts_with = "no_udp_single_receives")]
    udp_single_receives: bool,

    /// The UDP tunnel receives many datagrams at once
    #[arg(long, group = "change")]
    no_udp_single_receives: bool,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp => "udp",
            Self::Alloc => "alloc",
        }
    }
}

impl From<Offload> for v1::DeviceOffload {
    fn from(typed: Offload) -> Self {
        match typed {
            Offload::Uso => Self::Uso,
            Offload::Tso => Self::Tso,
            Offload::Plain => Self::Plain,
        }
    }
}

impl Asked {
    /// The backend that is asked for.
    pub(super) fn backend(self) -> Result<v1::network::Backend, Failure> {
        self.check()?;
        let Self { port, learning, gbp, direct_routing, udp_single_sends, udp_single_receives, .. } = self;
        Ok(match self.backend {
            Kind::Vxlan => {
                v1::network::Backend::Vxlan(v1::VxlanBackend { port, learning, gbp, direct_routing })
            }
            Kind::HostGw => v1::network::Backend::HostGw(v1::HostGwBackend {}),
            Kind::Udp => v1::network::Backend::Udp(v1::UdpBackend {
                port,
                device_offload: self.udp_offload.map(v1::DeviceOffload::from).unwrap_or_default().into(),
                single_sends: udp_single_sends,
                single_receives: udp_single_receives,
            }),
            Kind::Alloc => v1::network::Backend::Alloc(v1::AllocBackend {}),
        })
    }

    /// That nothing was typed which another backend has.
    fn check(&self) -> Result<(), Failure> {
        const VXLAN: &[Kind] = &[Kind::Vxlan];
        const UDP: &[Kind] = &[Kind::Udp];
        let flags = [
            ("--port", self.port.is_some(), &[Kind::Vxlan, Kind::Udp][..]),
            ("--learning", self.learning, VXLAN),
            ("--gbp", self.gbp, VXLAN),
            ("--direct-routing", self.direct_routing, VXLAN),
            ("--udp-offload", self.udp_offload.is_some(), UDP),
            ("--udp-single-sends", self.udp_single_sends, UDP),
            ("--udp-single-receives", self.udp_single_receives, UDP),
        ];
        match flags.iter().find(|(_, given, of)| *given && !of.contains(&self.backend)) {
            None => Ok(()),
            Some((flag, _, of)) => {
                let of: Vec<_> = of.iter().map(|kind| kind.name()).collect();
                Err(Failure::Usage(format!("{flag} is for --backend {} alone", of.join(" or "))))
            }
        }
    }
}

impl Changes {
    /// Changes a network's backend as asked, and answers which of its fields that were.
    pub(super) fn apply(
        self,
        network: &str,
        backend: &mut Option<v1::network::Backend>,
    ) -> Result<Vec<String>, Failure> {
        let now = BackendView::from(*backend).words();
        let foreign = |flag: &str, wanted: &str| {
            Failure::Usage(format!("{flag}: the backend of network {network} is {now}, not {wanted}"))
        };
        let mut paths = Vec::new();
        if let Some((flag, on)) = typed("direct-routing", self.direct_routing, self.no_direct_routing) {
            let Some(v1::network::Backend::Vxlan(vxlan)) = backend else {
                return Err(foreign(&flag, "vxlan"));
            };
            vxlan.direct_routing = on;
            paths.push("vxlan.direct_routing".to_owned());
        }
        let offload = self.udp_offload.map(|_| "--udp-offload".to_owned());
        let sends = typed("udp-single-sends", self.udp_single_sends, self.no_udp_single_sends);
        let receives = typed("udp-single-receives", self.udp_single_receives, self.no_udp_single_receives);
        let flags = [offload, sends.clone().map(|(flag, _)| flag), receives.clone().map(|(flag, _)| flag)];
        let Some(first) = flags.iter().flatten().next() else { return Ok(paths) };
        let Some(v1::network::Backend::Udp(udp)) = backend else { return Err(foreign(first, "udp")) };
        if let Some(most) = self.udp_offload {
            udp.set_device_offload(most.into());
            paths.push("udp.device_offload".to_owned());
        }
        if let Some((_, on)) = sends {
            udp.single_sends = on;
            paths.push("udp.single_sends".to_owned());
        }
        if let Some((_, on)) = receives {
            udp.single_receives = on;
            paths.push("udp.single_receives".to_owned());
        }
        Ok(paths)
    }
}

/// Which flag of a pair was typed, and what it says.
fn typed(name: &str, on: bool, off: bool) -> Option<(String, bool)> {
    let flag = if on { format!("--{name}") } else { format!("--no-{name}") };
    (on || off).then_some((flag, on))
}

/// A backend as shown.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum BackendView {
    Vxlan {
        port: Option<u32>,
        learning: bool,
        gbp: bool,
        direct_routing: bool,
    },
    HostGw,
    Udp {
        port: Option<u32>,
        device_offload: &'static str,
        single_sends: bool,
        single_receives: bool,
    },
    Alloc,
    /// Of a newer control plane.
    Unknown,
}

impl From<Option<v1::network::Backend>> for BackendView {
    fn from(wire: Option<v1::network::Backend>) -> Self {
        match wire {
            Some(v1::network::Backend::Vxlan(vxlan)) => {
                let v1::VxlanBackend { port, learning, gbp, direct_routing } = vxlan;
                Self::Vxlan { port, learning, gbp, direct_routing }
            }
            Some(v1::network::Backend::HostGw(_)) => Self::HostGw,
            Some(v1::network::Backend::Udp(udp)) => {
                let v1::UdpBackend { port, device_offload, single_sends, single_receives } = udp;
                Self::Udp { port, device_offload: offload(device_offload), single_sends, single_receives }
            }
            Some(v1::network::Backend::Alloc(_)) => Self::Alloc,
            None => Self::Unknown,
        }
    }
}

fn offload(wire: i32) -> &'static str {
    match v1::DeviceOffload::try_from(wire) {
        Ok(v1::DeviceOffload::Unspecified | v1::DeviceOffload::Uso) => "uso",
        Ok(v1::DeviceOffload::Tso) => "tso",
        Ok(v1::DeviceOffload::Plain) => "plain",
        Err(_) => "unknown",
    }
}

impl BackendView {
    /// For a table: what goes without saying is left out.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Vxlan { port, learning, gbp, direct_routing } => {
                let mut words = with_port("vxlan", *port);
                add(&mut words, [("learning", *learning), ("gbp", *gbp), ("direct", *direct_routing)]);
                words
            }
            Self::HostGw => "host-gw".to_owned(),
            Self::Udp { port, device_offload, single_sends, single_receives } => {
                let mut words = with_port("udp", *port);
                let limited = *device_offload != "uso";
                add(
                    &mut words,
                    [
                        (*device_offload, limited),
                        ("single-sends", *single_sends),
                        ("single-receives", *single_receives),
                    ],
                );
                words
            }
            Self::Alloc => "alloc".to_owned(),
            Self::Unknown => "unknown".to_owned(),
        }
    }
}

fn with_port(kind: &str, port: Option<u32>) -> String {
    port.map_or_else(|| kind.to_owned(), |port| format!("{kind} {port}"))
}

fn add<const N: usize>(words: &mut String, options: [(&str, bool); N]) {
    for (option, _) in options.into_iter().filter(|(_, set)| *set) {
        words.push(' ');
        words.push_str(option);
    }
}
