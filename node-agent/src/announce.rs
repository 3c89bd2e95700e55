//! The log's lines on what changes for a network: one per change of state,
//! however many attempts or peers there are.
//!
//! ```text
//!  Overview ──▶ Announcer (what the log knows) ──▶ News ──▶ log
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use loden_proto::names::NetworkId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::problem::Problem;
use crate::status::{Failure, Overview, Standing};

/// Peers named in one line; more are only counted.
const NAMED: usize = 3;
/// After a line, before the next look: what flaps is not a flood.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes the log's lines until its channel closes.
pub(crate) async fn run(network: NetworkId, mut overview: watch::Receiver<Overview>) {
    let mut announcer = Announcer::new(Instant::now());
    loop {
        let news = announcer.news(&overview.borrow_and_update(), Instant::now());
        for news in &news {
            if news.is_bad() {
                warn!(%network, "{news}");
            } else {
                info!(%network, "{news}");
            }
        }
        if !news.is_empty() {
            sleep(PAUSE).await;
        }
        if overview.changed().await.is_err() {
            return;
        }
    }
}

/// One line.
#[derive(Debug, Eq, PartialEq)]
enum News {
    Connected,
    Back { after: Duration },
    Troubled(Standing),
    LeftOut { count: usize, named: String, all: usize },
    NoLongerLeftOut { count: usize, named: String, all: usize },
    Warning(String),
    NoLongerWarning(String),
}

impl News {
    const fn is_bad(&self) -> bool {
        matches!(self, Self::Troubled(_) | Self::LeftOut { .. } | Self::Warning(_))
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("control plane connected"),
            Self::Back { after } => write!(f, "control plane back after {:.1} s", after.as_secs_f64()),
            Self::Troubled(standing) => write!(f, "{standing}; forwarding stays as it is"),
            Self::LeftOut { count, named, all } => write!(f, "{count} peers left out: {named}; {all} in all"),
            Self::NoLongerLeftOut { count, named, all } => {
                write!(f, "{count} peers no longer left out: {named}; {all} still are")
            }
            Self::Warning(warning) => f.write_str(warning),
            Self::NoLongerWarning(warning) => write!(f, "no longer: {warning}"),
        }
    }
}

/// What the log knows of a network.
struct Announcer {
    standing: Standing,
    /// Since when the control plane has not been heard.
    unheard: Instant,
    left_out: Arc<BTreeMap<String, Failure>>,
    warnings: Vec<String>,
}

impl Announcer {
    fn new(now: Instant) -> Self {
        Self { standing: Standing::Unheard, unheard: now, left_out: Arc::default(), warnings: Vec::new() }
    }

    /// What the log does not know yet.
    fn news(&mut self, overview: &Overview, now: Instant) -> Vec<News> {
        let mut news: Vec<News> = self.stands(overview.standing(), now).into_iter().collect();
        let failures = &overview.applied.failures;
        let new = unknown(failures, &self.left_out);
        let gone = unknown(&self.left_out, failures);
        let all = failures.len();
        if !new.is_empty() {
            news.push(News::LeftOut { count: new.len(), named: named(&new, true), all });
        }
        if !gone.is_empty() {
            news.push(News::NoLongerLeftOut { count: gone.len(), named: named(&gone, false), all });
        }
        if !new.is_empty() || !gone.is_empty() {
            self.left_out = Arc::clone(failures);
        }
        let warnings: Vec<String> = overview.warnings().cloned().collect();
        let gone = self.warnings.iter().filter(|warning| !warnings.contains(warning));
        news.extend(gone.cloned().map(News::NoLongerWarning));
        let new = warnings.iter().filter(|warning| !self.warnings.contains(warning));
        news.extend(new.cloned().map(News::Warning));
        self.warnings = warnings;
        news
    }

    fn stands(&mut self, standing: Standing, now: Instant) -> Option<News> {
        if is_same(&self.standing, &standing) {
            return None;
        }
        let before = std::mem::replace(&mut self.standing, standing.clone());
        match (before, standing) {
            // Of a watch that is not open the problem follows.
            (_, Standing::Unheard) => None,
            (Standing::Unheard, Standing::Heard) => Some(News::Connected),
            (_, Standing::Heard) => Some(News::Back { after: now - self.unheard }),
            (before, troubled) => {
                if before == Standing::Heard {
                    self.unheard = now;
                }
                Some(News::Troubled(troubled))
            }
        }
    }
}

/// Whether it is one state: the words of an attempt do not make another.
fn is_same(before: &Standing, now: &Standing) -> bool {
    match (before, now) {
        (
            Standing::Troubled(Problem::Refused { code, reason, .. }),
            Standing::Troubled(Problem::Refused { code: new_code, reason: new_reason, .. }),
        ) => (code, reason) == (new_code, new_reason),
        (Standing::Troubled(before), Standing::Troubled(now)) => discriminant(before) == discriminant(now),
        (before, now) => before == now,
    }
}

/// Those of `these` that `those` do not have.
fn unknown<'a>(
    these: &'a Arc<BTreeMap<String, Failure>>,
    those: &Arc<BTreeMap<String, Failure>>,
) -> Vec<(&'a str, &'a str)> {
    if Arc::ptr_eq(these, those) {
        return Vec::new();
    }
    let unknown = these.iter().filter(|(node, _)| !those.contains_key(*node));
    unknown.map(|(node, failure)| (node.as_str(), failure.message.as_str())).collect()
}

fn named(peers: &[(&str, &str)], reasons: bool) -> String {
    let shown = peers.iter().take(NAMED).map(|(node, message)| match reasons {
        true => format!("{node} ({message})"),
        false => (*node).to_owned(),
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if peers.len() > NAMED {
        text.push_str(&format!(" and {} more", peers.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tonic::Code;

    use super::*;
    use crate::status::Link;

    fn lines(announcer: &mut Announcer, overview: &Overview, now: Instant) -> Vec<String> {
        announcer.news(overview, now).iter().map(ToString::to_string).collect()
    }

    fn refused(code: Code, message: &str) -> Option<Problem> {
        Some(Problem::Refused { code, reason: None, message: message.into() })
    }

    #[test]
    fn each_state_of_the_control_plane_is_one_line_however_many_attempts_there_are() {
        let begin = Instant::now();
        let mut announcer = Announcer::new(begin);
        let mut overview = Overview::default();
        assert_eq!(lines(&mut announcer, &overview, begin), Vec::<String>::new());
        overview.link = Link { connected: true, opened: 1, problem: None };
        assert_eq!(lines(&mut announcer, &overview, begin), ["control plane connected"]);

        overview.link = Link { connected: false, opened: 1, problem: Some(Problem::Away("reset".into())) };
        let away = "control plane away (reset); forwarding stays as it is";
        assert_eq!(lines(&mut announcer, &overview, begin), [away]);
        for attempt in 0..100 {
            overview.link.problem = Some(Problem::Away(format!("no answer, attempt {attempt}")));
            assert_eq!(lines(&mut announcer, &overview, begin), Vec::<String>::new());
        }
        overview.link.problem = refused(Code::NotFound, "no network, 1");
        let refuses = "control plane refuses: no network, 1 (NOT_FOUND); forwarding stays as it is";
        assert_eq!(lines(&mut announcer, &overview, begin), [refuses]);
        overview.link.problem = refused(Code::NotFound, "no network, 2");
        assert_eq!(lines(&mut announcer, &overview, begin), Vec::<String>::new());
        overview.link.problem = refused(Code::Unauthenticated, "who are you");
        assert_eq!(lines(&mut announcer, &overview, begin).len(), 1);

        overview.link = Link { connected: true, opened: 2, problem: None };
        let later = begin + Duration::from_millis(61_500);
        assert_eq!(lines(&mut announcer, &overview, later), ["control plane back after 61.5 s"]);
    }

    #[test]
    fn a_flood_of_bad_peers_is_one_line_with_a_few_names_and_a_count() {
        let begin = Instant::now();
        let mut announcer = Announcer::new(begin);
        let mut overview = Overview::default();
        let failure = |message: &str| Failure { message: message.into(), since: SystemTime::UNIX_EPOCH };
        overview.applied.failures =
            Arc::new((0..1000).map(|n| (format!("n{n:03}"), failure("bad MAC"))).collect());
        let all = "1000 peers left out: n000 (bad MAC), n001 (bad MAC), n002 (bad MAC) and 997 more; \
                   1000 in all";
        assert_eq!(lines(&mut announcer, &overview, begin), [all]);
        Arc::make_mut(&mut overview.applied.failures)
            .values_mut()
            .for_each(|failure| failure.message = "worse".into());
        assert_eq!(lines(&mut announcer, &overview, begin), Vec::<String>::new());

        Arc::make_mut(&mut overview.applied.failures).remove("n007");
        Arc::make_mut(&mut overview.applied.failures).insert("x".into(), failure("bad subnet"));
        let both = [
            "1 peers left out: x (bad subnet); 1000 in all",
            "1 peers no longer left out: n007; 1000 still are",
        ];
        assert_eq!(lines(&mut announcer, &overview, begin), both);
        Arc::make_mut(&mut overview.applied.failures).clear();
        let last = "1000 peers no longer left out: n000, n001, n002 and 997 more; 0 still are";
        assert_eq!(lines(&mut announcer, &overview, begin), [last]);
    }

    #[test]
    fn a_warning_is_one_line_when_it_comes_and_one_when_it_goes() {
        let begin = Instant::now();
        let mut announcer = Announcer::new(begin);
        let mut overview = Overview::default();
        overview.filter.warnings = vec!["FORWARD drops".into()];
        assert_eq!(lines(&mut announcer, &overview, begin), ["FORWARD drops"]);
        assert_eq!(lines(&mut announcer, &overview, begin), Vec::<String>::new());
        overview.applied.warnings = vec!["no forwarding".into()];
        overview.filter.warnings.clear();
        let both = ["no longer: FORWARD drops", "no forwarding"];
        assert_eq!(lines(&mut announcer, &overview, begin), both);
    }
}
