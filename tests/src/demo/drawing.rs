//! The pictures of the report: topology and ping timelines, as SVG.

use std::time::Duration;

use maud::{Markup, html};

use super::report::{HostFacts, NetworkFacts, human};
use crate::traffic::PingReport;

/// Width of every picture in SVG units.
const WIDTH: f64 = 960.0;

/// The hosts on their fabric, and the network over it.
#[must_use]
pub fn topology(network: &NetworkFacts, hosts: &[HostFacts]) -> Markup {
    let gap = 16.0;
    let box_width = (WIDTH - gap * (hosts.len() as f64 + 1.0)) / hosts.len().max(1) as f64;
    let centers: Vec<f64> =
        (0..hosts.len()).map(|i| gap + i as f64 * (box_width + gap) + box_width / 2.0).collect();
    let (first, last) = (centers.first().copied().unwrap_or(0.0), centers.last().copied().unwrap_or(0.0));
    html! {
        svg viewBox="0 0 960 344" role="img" aria-label="Topology" {
            text class="caption" x=(WIDTH / 2.0) y="20" text-anchor="middle" {
                "control plane — leases, VNI " (network.vni) ", peers over mTLS"
            }
            rect class="brain" x="330" y="32" width="300" height="30" rx="8" {}
            text class="strong" x=(WIDTH / 2.0) y="52" text-anchor="middle" { "loden-control-plane" }
            @for center in &centers {
                path class="control" d=(format!("M {} 62 C {} 84, {center} 76, {center} 98", WIDTH / 2.0, WIDTH / 2.0)) {}
            }
            @for (host, center) in hosts.iter().zip(&centers) {
                (host_box(host, *center, box_width))
            }
            @for center in &centers {
                line class="wire" x1=(center) x2=(center) y1="270" y2="304" {}
            }
            line class="fabric" x1=(first - 40.0) x2=(last + 40.0) y1="304" y2="304" {}
            text class="caption" x=(WIDTH / 2.0) y="330" text-anchor="middle" {
                "underlay fabric · " (network.between) " · " (network.name) " " (network.pool)
            }
        }
    }
}

fn host_box(host: &HostFacts, center: f64, width: f64) -> Markup {
    let left = center - width / 2.0;
    let class = if host.left { "host gone" } else { "host" };
    let note = match (host.joined_late, host.left) {
        (true, true) => " (joined, left)",
        (true, false) => " (joined)",
        (false, true) => " (left)",
        (false, false) => "",
    };
    html! {
        rect class=(class) x=(left) y="98" width=(width) height="172" rx="10" {}
        text class="strong" x=(center) y="120" text-anchor="middle" { (host.name) (note) }
        rect class="pod" x=(left + 12.0) y="132" width=(width - 24.0) height="40" rx="6" {}
        text class="caption" x=(center) y="148" text-anchor="middle" { "container" }
        text class="mono" x=(center) y="164" text-anchor="middle" { (host.container) }
        line class="wire" x1=(center) x2=(center) y1="172" y2="184" {}
        text class="mono" x=(center) y="198" text-anchor="middle" { (host.subnet) }
        text class="caption" x=(center) y="216" text-anchor="middle" { "MTU " (host.mtu) }
        text class="mono small" x=(center) y="232" text-anchor="middle" { (host.receives) }
        text class="mono" x=(center) y="256" text-anchor="middle" { (host.underlay) }
    }
}

const LEFT: f64 = 64.0;
const RIGHT: f64 = 948.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 190.0;

/// Round trips over time; losses and events are marked.
#[must_use]
pub fn timeline(title: &str, ping: &PingReport) -> Markup {
    let end = ping.timeline.last().map_or(1.0, |echo| echo.at.as_secs_f64()).max(0.1);
    // A single late reply must not flatten the rest: the axis ends at the 99.5th percentile.
    let top = ping.quantile(0.995).map_or(1e-3, |rtt| rtt.as_secs_f64()) * 1.25;
    let x = |at: Duration| LEFT + at.as_secs_f64() / end * (RIGHT - LEFT);
    let y = |rtt: Duration| BOTTOM - (rtt.as_secs_f64() / top).min(1.0) * (BOTTOM - TOP);
    let dots: String = ping
        .timeline
        .iter()
        .filter_map(|echo| echo.round_trip().map(|rtt| format!("M{:.1} {:.1}h0", x(echo.at), y(rtt))))
        .collect();
    let step = nice_step(end);
    let ticks = (0..).map(|i| f64::from(i) * step).take_while(|second| *second <= end);
    html! {
        svg viewBox="0 0 960 224" role="img" aria-label=(title) {
            @for share in [0.0, 0.5, 1.0] {
                @let level = BOTTOM - share * (BOTTOM - TOP);
                line class="grid" x1=(LEFT) x2=(RIGHT) y1=(level) y2=(level) {}
                text class="caption" x=(LEFT - 8.0) y=(level + 4.0) text-anchor="end" {
                    (human(Duration::from_secs_f64(top * share)))
                }
            }
            @for second in ticks {
                @let at = x(Duration::from_secs_f64(second));
                text class="caption" x=(at) y=(BOTTOM + 18.0) text-anchor="middle" { (format!("{second} s")) }
            }
            path class="dots" d=(dots) {}
            @for echo in ping.timeline.iter().filter(|echo| echo.round_trip().is_none()) {
                @let at = format!("{:.1}", x(echo.at));
                line class="loss" x1=(at) x2=(at) y1=(BOTTOM) y2=(BOTTOM - 26.0) {}
            }
            @for (index, mark) in ping.marks.iter().enumerate() {
                (event(x(mark.at), index, &mark.label))
            }
        }
    }
}

/// A vertical line with its label; neighbours stand on different heights.
fn event(x: f64, index: usize, label: &str) -> Markup {
    let level = 14.0 + 15.0 * (index % 3) as f64;
    let (anchor, offset) = if x > WIDTH * 0.7 { ("end", -5.0) } else { ("start", 5.0) };
    html! {
        line class="mark" x1=(format!("{x:.1}")) x2=(format!("{x:.1}")) y1=(level - 8.0) y2=(BOTTOM) {}
        text class="label" x=(format!("{:.1}", x + offset)) y=(level) text-anchor=(anchor) { (label) }
    }
}

/// A step of 1, 2 or 5 times a power of ten that gives at most ten ticks.
fn nice_step(end: f64) -> f64 {
    let rough = end / 10.0;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::traffic::{Echo, Fate, Mark};

    #[test]
    fn ticks_are_round_and_few() {
        for (end, step) in [(0.9, 0.1), (10.0, 1.0), (12.0, 2.0), (45.0, 5.0), (99.0, 10.0)] {
            assert!((nice_step(end) - step).abs() < 1e-9, "{end}: {}", nice_step(end));
        }
    }

    #[test]
    fn every_loss_and_every_event_is_drawn() {
        let echo = |ms, fate| Echo { at: Duration::from_millis(ms), fate };
        let replied = Fate::Replied(Duration::from_micros(50));
        let ping = PingReport {
            overrun: 0,
            begin: Instant::now(),
            interval: Duration::from_millis(5),
            timeline: vec![echo(0, replied), echo(5, Fate::Lost), echo(10, Fate::Lost)],
            marks: vec![Mark { at: Duration::from_millis(5), label: "kill -9 <x>".into() }],
            duplicates: 0,
        };
        let drawn = timeline("t", &ping).into_string();
        assert_eq!(drawn.matches("class=\"loss\"").count(), 2);
        assert!(drawn.contains("kill -9 &lt;x&gt;"));
    }
}
