//! `lodenctl ca …`: the CAs of the cluster, and the change from one to the next.

use std::time::{Duration, SystemTime};

use clap::Subcommand;
use loden_process::lines;
use loden_proto::v1::{self, AuthorityPhase, RotationStep};
use prost_types::Timestamp;
use serde::Serialize;
use tokio::time::sleep;

use crate::age;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::network;
use crate::output::{self, Output, View, or_dash};

/// How often it is looked how far a step is.
const LOOK: Duration = Duration::from_millis(500);
/// Nodes that are named while it is waited for them.
const NAMED: usize = 5;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Shows which CAs are trusted, and how far the change from one to the next is
    Status,
    /// Goes over to another CA: makes it, waits until all nodes trust it, and has it issue
    ///
    /// What was begun is gone on with. The CA of before stays trusted until `ca retire`.
    Rotate {
        /// Go on though nodes are behind, or a control plane does not say which
        #[arg(long)]
        force: bool,
    },
    /// Trusts the CA of before no more; who has a certificate of it only has to join again
    Retire {
        /// Also while nodes that are away, or with a control plane that does not answer, may have such certificates
        #[arg(long)]
        force: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, connection: &Connection, output: Output) -> Result<(), Failure> {
        let mut client = connection.identities();
        let authority = match self {
            Self::Status => client.get_authority(v1::GetAuthorityRequest {}).await?.into_inner(),
            Self::Rotate { force } => {
                let begun = client.get_authority(v1::GetAuthorityRequest {}).await?.into_inner();
                if begun.phase() == AuthorityPhase::Steady {
                    step(connection, RotationStep::Prepare, force).await?;
                }
                if begun.phase() != AuthorityPhase::Issuing {
                    if !force {
                        all_current(connection).await?;
                    }
                    step(connection, RotationStep::Issue, force).await?;
                }
                if force {
                    client.get_authority(v1::GetAuthorityRequest {}).await?.into_inner()
                } else {
                    all_current(connection).await?
                }
            }
            Self::Retire { force } => step(connection, RotationStep::Retire, force).await?,
        };
        output.one(&AuthorityView::from(authority))?;
        Ok(())
    }

    /// Whether it waits for nodes, for as long as that takes.
    pub(crate) const fn is_endless(&self) -> bool {
        matches!(self, Self::Rotate { .. })
    }
}

async fn step(connection: &Connection, step: RotationStep, force: bool) -> Result<v1::Authority, Failure> {
    let request = v1::RotateAuthorityRequest { step: step.into(), force };
    Ok(connection.identities().rotate_authority(request).await?.into_inner())
}

/// Waits until all nodes that are connected have a certificate of the present generation, and tells for whom. A
/// replica that does not say which nodes it has is waited for as well.
async fn all_current(connection: &Connection) -> Result<v1::Authority, Failure> {
    let mut told = String::new();
    loop {
        let authority = connection.identities().get_authority(v1::GetAuthorityRequest {}).await?.into_inner();
        if authority.nodes_behind.is_empty() && authority.replicas_unasked.is_empty() {
            return Ok(authority);
        }
        let progress = progress(authority);
        if progress != told {
            lines::error(output::lines(&progress));
            told = progress;
        }
        sleep(LOOK).await;
    }
}

/// How far a step is.
fn progress(authority: v1::Authority) -> String {
    let view = AuthorityView::from(authority);
    let unasked = view.replicas_unasked.iter().map(|replica| format!("an answer of {replica}"));
    let awaited: Vec<_> =
        [view.behind(NAMED)].into_iter().filter(|text| !text.is_empty()).chain(unasked).collect();
    let (phase, current) = (&view.phase, view.nodes_current);
    format!("{phase}: {current} nodes are there; waiting for {}", awaited.join(" and "))
}

/// The CAs as shown.
#[derive(Debug, Serialize)]
struct AuthorityView {
    phase: String,
    roots: Vec<RootView>,
    generation: u32,
    nodes_current: u32,
    nodes_behind: Vec<String>,
    /// How many more there are.
    nodes_behind_left_out: u32,
    /// Who did not say which nodes it has.
    replicas_unasked: Vec<String>,
    /// By when no certificate of the CA of before is good any more.
    retire_time: Option<String>,
}

#[derive(Debug, Serialize)]
struct RootView {
    key_sha256: String,
    expire_time: Option<String>,
    #[serde(skip)]
    expires: Option<Timestamp>,
}

impl From<v1::Authority> for AuthorityView {
    fn from(wire: v1::Authority) -> Self {
        let phase = wire.phase().as_str_name().trim_start_matches("AUTHORITY_PHASE_").to_ascii_lowercase();
        let root = |root: v1::Root| RootView {
            key_sha256: root.key_sha256,
            expire_time: age::rfc3339(root.expire_time.as_ref()),
            expires: root.expire_time,
        };
        Self {
            phase,
            roots: wire.roots.into_iter().map(root).collect(),
            generation: wire.generation,
            nodes_current: wire.nodes_current,
            nodes_behind: wire.nodes_behind.iter().map(|node| network::short(node)).collect(),
            nodes_behind_left_out: wire.nodes_behind_left_out,
            replicas_unasked: wire.replicas_unasked,
            retire_time: age::rfc3339(wire.retire_time.as_ref()),
        }
    }
}

impl View for AuthorityView {
    const COLUMNS: &'static [&'static str] =
        &["PHASE", "CA", "ENDS", "ROLE", "NODES CURRENT", "NODES BEHIND", "RETIRE AFTER"];

    fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        let role = |index| match (index, self.phase.as_str()) {
            (0, _) => "issues",
            (_, "prepared") => "is next",
            _ => "was before",
        };
        let roots = self.roots.iter().enumerate();
        let row = |(index, root): (usize, &RootView)| {
            let of_all = |text: String| if index == 0 { text } else { String::new() };
            vec![
                of_all(self.phase.clone()),
                root.key_sha256.chars().take(16).collect(),
                age::relative(root.expires.as_ref(), now),
                role(index).to_owned(),
                of_all(self.nodes_current.to_string()),
                of_all(or_dash(self.behind_and_unknown())),
                of_all(or_dash(self.retire_time.clone().unwrap_or_default())),
            ]
        };
        roots.map(row).collect()
    }
}

impl AuthorityView {
    /// At most so many by name.
    fn behind(&self, most: usize) -> String {
        let (named, others) = self.nodes_behind.split_at(most.min(self.nodes_behind.len()));
        let mut text = named.join(" ");
        let more = others.len() + self.nodes_behind_left_out as usize;
        if more > 0 {
            text.push_str(&format!(" and {more} more"));
        }
        text
    }

    /// All by name, and of whom nothing is known.
    fn behind_and_unknown(&self) -> String {
        let behind = self.behind(usize::MAX);
        match &self.replicas_unasked[..] {
            [] => behind,
            replicas => format!("{} (unknown of {})", or_dash(behind), replicas.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::table;

    fn wire() -> v1::Authority {
        let root = |digit: &str, seconds| v1::Root {
            key_sha256: digit.repeat(64),
            expire_time: Some(Timestamp { seconds, nanos: 0 }),
        };
        v1::Authority {
            phase: AuthorityPhase::Issuing.into(),
            roots: vec![root("b", 1_003_600), root("a", 1_000_060)],
            generation: 7,
            nodes_current: 3,
            nodes_behind: vec!["nodes/node-1".into()],
            nodes_behind_left_out: 2,
            replicas_unasked: Vec::new(),
            retire_time: Some(Timestamp { seconds: 1_000_000, nanos: 0 }),
        }
    }

    #[test]
    fn who_is_waited_for_is_named_and_many_are_counted() {
        assert_eq!(progress(wire()), "issuing: 3 nodes are there; waiting for node-1 and 2 more");
        let many = (0..9).map(|number| format!("nodes/n{number}")).collect();
        let many = v1::Authority { nodes_behind: many, nodes_behind_left_out: 0, ..wire() };
        assert_eq!(progress(many), "issuing: 3 nodes are there; waiting for n0 n1 n2 n3 n4 and 4 more");
    }

    #[test]
    fn a_replica_that_does_not_answer_is_waited_for_and_shown() {
        let silent = v1::Authority { replicas_unasked: vec!["control-2".into()], ..wire() };
        assert_eq!(
            progress(silent.clone()),
            "issuing: 3 nodes are there; waiting for node-1 and 2 more and an answer of control-2"
        );
        let nobody = v1::Authority { nodes_behind: Vec::new(), nodes_behind_left_out: 0, ..silent.clone() };
        let waited = "issuing: 3 nodes are there; waiting for an answer of control-2";
        assert_eq!(progress(nobody.clone()), waited);
        assert_eq!(AuthorityView::from(nobody).behind_and_unknown(), "- (unknown of control-2)");
        let behind = AuthorityView::from(silent).behind_and_unknown();
        assert_eq!(behind, "node-1 and 2 more (unknown of control-2)");
    }

    #[test]
    fn the_cas_are_shown_in_both_forms() {
        let view = AuthorityView::from(wire());
        let value = serde_json::to_value(&view).unwrap();
        assert_eq!(value["phase"], json!("issuing"));
        assert_eq!(value["roots"][1]["key_sha256"], json!("a".repeat(64)));
        assert_eq!(value["nodes_behind"], json!(["node-1"]));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let lines = table(&[view], now);
        let lines: Vec<_> =
            lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "PHASE CA ENDS ROLE NODES CURRENT NODES BEHIND RETIRE AFTER",
                "issuing bbbbbbbbbbbbbbbb in 1h issues 3 node-1 and 2 more 1970-01-12T13:46:40Z",
                "aaaaaaaaaaaaaaaa in 1m was before",
            ]
        );
    }
}
