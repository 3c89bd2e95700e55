//! The report as one self-contained page: no scripts, no links, light and dark.

use std::collections::BTreeSet;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::drawing;
use super::report::{Compared, Outcome, Pair, Report, human, reply};

const STYLE: &str = include_str!("page.css");

/// Renders the page.
#[must_use]
pub fn render(report: &Report) -> String {
    let lost: usize = report.outcomes.iter().map(|outcome| outcome.lost).sum();
    let sent: usize = report.outcomes.iter().map(|outcome| outcome.sent).sum();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Loden: what the demo did" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { "A container network on " (report.hosts.len()) " hosts" }
                    p.lead {
                        "Real processes, the real kernel, every figure measured in this run. "
                        (report.date) " · " (report.machine)
                    }
                    div.figures {
                        (figure(&report.hosts.len().to_string(), "hosts"))
                        (figure(&report.network.vni.to_string(), "VNI"))
                        (figure(&report.pairs.len().to_string(), "pairs measured"))
                        (figure(&format!("{lost} of {sent}"), "packets lost through all events"))
                    }
                    h2 { "Topology" }
                    div.card { (drawing::topology(&report.network, &report.hosts)) }
                    h2 { "What happened" }
                    div.card { (outcomes(&report.outcomes)) }
                    h2 { "Ping while it happened" }
                    @for timeline in &report.timelines {
                        div.card {
                            h3 {
                                (timeline.title) " — " (timeline.from) " → " (timeline.to) ", every "
                                (human(timeline.ping.interval)) ", " (timeline.ping.lost()) " of "
                                (timeline.ping.sent()) " lost"
                            }
                            (drawing::timeline(&timeline.title, &timeline.ping))
                        }
                    }
                    h2 { "Every pair" }
                    p.note { "Median ping round trip, and the rate of one TCP transfer, container to container." }
                    div.card { (matrix(&report.pairs)) }
                    h2 { "The backends beside each other" }
                    p.note {
                        "Two hosts each, one after the other in this run. The ping goes on while an agent is killed \
                         and started again."
                    }
                    div.card { (compared(&report.compared)) }
                    h2 { "Leases" }
                    div.card { (leases(report)) }
                    h2 { "The way of a packet" }
                    div.card { (way(report)) }
                }
            }
        }
    };
    page.into_string()
}

fn figure(value: &str, what: &str) -> Markup {
    html! { div.figure { b { (value) } span { (what) } } }
}

fn outcomes(outcomes: &[Outcome]) -> Markup {
    html! {
        table {
            tr { th { "event" } th { "converged in" } th { "when" } th { "packets lost" } th { "" } }
            @for outcome in outcomes {
                tr {
                    td { (outcome.event) }
                    td { (human(outcome.converged)) }
                    td { (outcome.until) }
                    td { (outcome.lost) " of " (outcome.sent) }
                    td class=(if outcome.good { "good" } else { "bad" }) {
                        (if outcome.good { "as promised" } else { "not as promised" })
                    }
                }
            }
        }
    }
}

fn matrix(pairs: &[Pair]) -> Markup {
    let names: BTreeSet<&str> =
        pairs.iter().flat_map(|pair| [pair.from.as_str(), pair.to.as_str()]).collect();
    html! {
        table.matrix {
            tr { th { "from \\ to" } @for to in &names { th { (to) } } }
            @for from in &names {
                tr {
                    th { (from) }
                    @for to in &names { (cell(pairs.iter().find(|pair| pair.from == *from && pair.to == *to))) }
                }
            }
        }
    }
}

fn cell(pair: Option<&Pair>) -> Markup {
    let Some(pair) = pair else { return html! { td { "·" } } };
    html! {
        td {
            @match pair.rtt {
                Some(rtt) if pair.lost == 0 => { span.good { (human(rtt)) } }
                Some(rtt) => { span.bad { (human(rtt)) ", " (pair.lost) " lost" } }
                None => { span.bad { "no reply" } }
            }
            small { (format!("{:.2} Gbit/s", pair.tcp)) }
        }
    }
}

fn compared(all: &[Compared]) -> Markup {
    html! {
        table {
            tr { th { "backend" } th { "MTU" } th { "round trip" } th { "99 %" } th { "TCP" } th { "packets lost" } }
            @for one in all {
                tr {
                    td { (one.backend) }
                    td { (one.mtu) }
                    td { (reply(one.rtt)) }
                    td { (reply(one.late)) }
                    td { (format!("{:.2} Gbit/s", one.tcp)) }
                    td class=(if one.lost == 0 { "good" } else { "bad" }) { (one.lost) " of " (one.sent) }
                }
            }
        }
    }
}

fn leases(report: &Report) -> Markup {
    html! {
        table {
            tr { th { "node" } th { "subnet" } th { "underlay" } th { "takes packets" } th { "MTU" } th { "container" } }
            @for host in &report.hosts {
                tr {
                    td { (host.name) }
                    td.mono { (host.subnet) }
                    td.mono { (host.underlay) }
                    td.mono { (host.receives) }
                    td { (host.mtu) }
                    td.mono { (host.container) }
                }
            }
        }
    }
}

fn way(report: &Report) -> Markup {
    html! {
        ol.way {
            @for hop in &report.way {
                li { b { (hop.what) } span { (hop.place) } code.mono { (hop.found) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_report_is_a_page() {
        let page = render(&Report::default());
        assert!(page.starts_with("<!DOCTYPE html>"));
        assert!(!page.contains("http://") && !page.contains("<script"), "the page must stand alone");
    }
}
