//! Who leads, as each member tells it.

use anyhow::Context;
use serde_json::Value;

/// What a member tells of the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Standing {
    member: u64,
    /// 0 while it knows of none.
    leader: u64,
    term: u64,
}

impl Standing {
    /// Reads what `etcdctl endpoint status -w json` prints of one member.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let all: Value = serde_json::from_str(text)?;
        let status = &all[0]["Status"];
        let number = |value: &Value, what: &str| {
            value.as_u64().with_context(|| format!("etcdctl tells no {what}: {text}"))
        };
        Ok(Self {
            member: number(&status["header"]["member_id"], "member_id")?,
            // It is left out when it is 0.
            leader: status["leader"].as_u64().unwrap_or_default(),
            term: number(&status["raftTerm"], "raftTerm")?,
        })
    }
}

/// The place of the member that says that it leads itself. One that was cut off may still say so of an older term.
pub(super) fn leader(standings: &[Option<Standing>]) -> Option<usize> {
    let told = standings.iter().enumerate().filter_map(|(place, standing)| Some((place, (*standing)?)));
    let leads = told.filter(|(_, standing)| standing.member == standing.leader);
    leads.max_by_key(|(_, standing)| standing.term).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = r#"[{"Endpoint":"http://192.0.2.7:2379","Status":{"header":{"cluster_id":11614994099402953961,
        "member_id":17753897894926213715,"revision":1,"raft_term":3},"version":"3.4.23","dbSize":20480,
        "leader":17753897894926213715,"raftIndex":13,"raftTerm":3,"raftAppliedIndex":13,"dbSizeInUse":16384}}]"#;

    #[test]
    fn what_etcdctl_prints_is_read() {
        let leader = 17_753_897_894_926_213_715;
        assert_eq!(Standing::parse(TOLD).unwrap(), Standing { member: leader, leader, term: 3 });
        assert!(Standing::parse("[]").unwrap_err().to_string().contains("member_id"));
    }

    #[test]
    fn the_leader_of_the_newest_term_leads() {
        let standing = |member, leader, term| Some(Standing { member, leader, term });
        assert_eq!(leader(&[standing(1, 1, 2), standing(2, 3, 3), standing(3, 3, 3)]), Some(2));
        assert_eq!(leader(&[None, standing(2, 0, 3), standing(3, 0, 3)]), None);
    }
}
