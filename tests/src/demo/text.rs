//! The report for the terminal.

use comfy_table::{Table, presets};

use super::report::{Compared, Pair, Report, human, reply};

/// Renders the report.
#[must_use]
pub fn render(report: &Report) -> String {
    let network = &report.network;
    let title =
        format!("network {} {}, VNI {}, {}", network.name, network.pool, network.vni, network.between);
    let sections = [
        (title.as_str(), leases(report)),
        ("every pair: median ping round trip, one TCP transfer", pairs(&report.pairs)),
        ("the way of a packet", way(report)),
        ("what happened while a ping ran every 5 ms", outcomes(report)),
        (
            "the backends beside each other, an agent being killed and started again",
            compared(&report.compared),
        ),
    ];
    sections.map(|(title, table)| format!("\n{title}\n{table}\n")).concat()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table
}

fn leases(report: &Report) -> Table {
    let mut table = table(&["node", "subnet", "underlay", "takes packets", "MTU", "container"]);
    for host in &report.hosts {
        table.add_row([
            &host.name,
            &host.subnet,
            &host.underlay,
            &host.receives,
            &host.mtu.to_string(),
            &host.container,
        ]);
    }
    table
}

fn pairs(pairs: &[Pair]) -> Table {
    let mut table = table(&["from", "to", "round trip", "lost", "TCP"]);
    for pair in pairs {
        table.add_row([
            pair.from.clone(),
            pair.to.clone(),
            reply(pair.rtt),
            format!("{} of {}", pair.lost, pair.sent),
            format!("{:.2} Gbit/s", pair.tcp),
        ]);
    }
    table
}

fn way(report: &Report) -> Table {
    let mut table = table(&["step", "where", "found"]);
    for hop in &report.way {
        table.add_row([&hop.what, &hop.place, &hop.found]);
    }
    table
}

fn compared(all: &[Compared]) -> Table {
    let mut table = table(&["backend", "MTU", "round trip", "99 %", "TCP", "packets lost"]);
    for one in all {
        table.add_row([
            one.backend.clone(),
            one.mtu.to_string(),
            reply(one.rtt),
            reply(one.late),
            format!("{:.2} Gbit/s", one.tcp),
            format!("{} of {}", one.lost, one.sent),
        ]);
    }
    table
}

fn outcomes(report: &Report) -> Table {
    let mut table = table(&["event", "converged in", "when", "packets lost", ""]);
    for outcome in &report.outcomes {
        table.add_row([
            outcome.event.clone(),
            human(outcome.converged),
            outcome.until.clone(),
            format!("{} of {}", outcome.lost, outcome.sent),
            if outcome.good { "as promised" } else { "NOT AS PROMISED" }.to_owned(),
        ]);
    }
    table
}
