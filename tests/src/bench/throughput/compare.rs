//! Ours against the same pods wired by hand, and what each part of the packet filter costs, within one flow each.
//!
//! ```text
//!  verdict   ours │ by hand │ by hand again                       the last two: A/A, what noise alone does
//!  costs     tracked │ tracked again │ untracked │ our chain, empty │ all rules │ all but the first │ …
//! ```

use super::super::carry::flow::Rates;
use super::super::{Better, Metric, NoRuns, Say, Scale};
use super::paths::{HOSTGW, Ours, VXLAN};
use super::switched::{State, Switched};
use super::toggle::slices;

/// Slices of each state when ours is compared with the way by hand.
const VERDICT: usize = 80;
/// Slices of each state when parts of ours are.
const COSTS: usize = 30;
/// A control's baseline.
const AGAIN: &str = "the same again";

/// A backend of ours and its counterpart by hand.
pub(super) struct Comparison {
    backend: &'static str,
    verdict: &'static str,
    hand: &'static str,
    vtep: bool,
}

impl Comparison {
    /// In the order of the stage's nodes.
    pub(super) const ALL: [Self; 2] = [
        Self {
            backend: HOSTGW,
            verdict: "hostgw_vs_routed_ct",
            hand: "same pods routed by hand, conntrack on",
            vtep: false,
        },
        Self {
            backend: VXLAN,
            verdict: "vxlan_vs_hand_ct",
            hand: "same pods over a VXLAN device by hand, conntrack on",
            vtep: true,
        },
    ];

    /// Kills the agents and measures.
    pub(super) async fn measure(
        &self,
        ours: &mut Ours,
        scale: &Scale,
        say: &Say<'_>,
    ) -> anyhow::Result<Vec<Metric>> {
        let switched = Switched::prepare(ours, self.vtep).await?;
        let run = async |states: &[State], full| {
            let make = async |number: usize| switched.make(states[number]).await;
            slices(&ours.path, states.len(), full, scale, make).await
        };
        let measured = run(&[State::OURS, State::BY_HAND, State::BY_HAND], VERDICT).await?;
        let mut metrics = self.verdict(&measured)?;
        let rules = switched.rules();
        let measured = run(&states(rules.len()), COSTS).await?;
        metrics.extend(self.costs(&rules, &measured)?);
        for metric in &metrics {
            let ratio = metric.ratio.unwrap_or_default();
            say(&format!("{} {ratio:.3} ({} slices)", metric.name, metric.runs));
        }
        Ok(metrics)
    }

    fn verdict(&self, measured: &[Rates]) -> Result<Vec<Metric>, NoRuns> {
        let [ours, hand, again] = measured else { return Ok(Vec::new()) };
        let control = format!("aa_control_{}", self.verdict);
        let pairs =
            [against(self.verdict, ours, (self.hand, hand))?, against(&control, again, (AGAIN, hand))?];
        Ok(pairs.concat())
    }

    fn costs(&self, rules: &[String], measured: &[Rates]) -> Result<Vec<Metric>, NoRuns> {
        let [tracked, again, untracked, chain, all, without @ ..] = measured else { return Ok(Vec::new()) };
        let of = |what: &str| format!("{what}_{}", self.backend);
        let mut pairs = vec![
            against(&of("cost_conntrack"), tracked, ("conntrack off", untracked))?,
            against(&of("cost_chain"), chain, ("no chain, conntrack on", tracked))?,
            against(&of("cost_rules"), all, ("our chain, empty", chain))?,
        ];
        for (rule, without) in rules.iter().zip(without) {
            pairs.push(against(&of(&format!("cost_rule_{rule}")), all, ("all but this rule", without))?);
        }
        pairs.push(against(&of("aa_control_costs"), again, (AGAIN, tracked))?);
        Ok(pairs.concat())
    }
}

/// In the order in which [`Comparison::costs`] reads them.
fn states(rules: usize) -> Vec<State> {
    let mut states = vec![State::BARE, State::BARE, State::UNTRACKED, State::CHAIN, State::OURS];
    states.extend((0..rules).map(State::without));
    states
}

/// The rate by this name, and what it costs.
fn against(name: &str, rates: &Rates, (baseline, theirs): (&str, &Rates)) -> Result<[Metric; 2], NoRuns> {
    let rate = (baseline, &theirs.rate);
    let cpu = (baseline, &theirs.cpu);
    Ok([
        Metric::against(name, "Gbit/s", Better::Higher, &rates.rate, rate)?,
        Metric::against(&format!("{name}_cpu"), "CPU s/Gbit", Better::Lower, &rates.cpu, cpu)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::super::carry::flow::Carried;
    use super::*;

    /// A flow that carries so much and costs the inverse of it.
    fn rates(value: f64) -> Rates {
        let mut rates = Rates::default();
        rates.push(&Carried { gbit_per_second: value, cpu_per_gbit: 1.0 / value });
        rates
    }

    /// By name, of the rates; those of what they cost are the same here.
    fn ratios(metrics: &[Metric]) -> Vec<(&str, Option<f64>)> {
        let (rates, costs): (Vec<_>, Vec<_>) =
            metrics.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).unzip();
        for (rate, cost) in rates.iter().zip(costs) {
            assert_eq!((format!("{}_cpu", rate.name), rate.ratio), (cost.name.clone(), cost.ratio));
        }
        rates.into_iter().map(|rate| (rate.name.as_str(), rate.ratio)).collect()
    }

    #[test]
    fn ours_is_compared_with_the_way_by_hand_and_that_with_itself() {
        let metrics = Comparison::ALL[0].verdict(&[8.0, 10.0, 12.5].map(rates)).unwrap();
        let expected = [("hostgw_vs_routed_ct", Some(0.8)), ("aa_control_hostgw_vs_routed_ct", Some(1.25))];
        assert_eq!(ratios(&metrics), expected);
    }

    #[test]
    fn every_part_is_compared_with_the_same_without_it() {
        let rules = ["first".to_owned(), "second".to_owned()];
        assert_eq!(states(2).len(), 7);
        let measured = [8.0, 8.0, 10.0, 4.0, 2.0, 4.0, 2.0].map(rates);
        let metrics = Comparison::ALL[1].costs(&rules, &measured).unwrap();
        let expected = [
            ("cost_conntrack_vxlan", Some(0.8)),
            ("cost_chain_vxlan", Some(0.5)),
            ("cost_rules_vxlan", Some(0.5)),
            ("cost_rule_first_vxlan", Some(0.5)),
            ("cost_rule_second_vxlan", Some(1.0)),
            ("aa_control_costs_vxlan", Some(1.0)),
        ];
        assert_eq!(ratios(&metrics), expected);
    }
}
