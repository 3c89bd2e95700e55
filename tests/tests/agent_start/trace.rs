//! What an agent asks of the kernel, as strace sees it: not by the agent's own count.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// `NFNL_SUBSYS_NFTABLES`, the upper half of a message's kind.
const NFTABLES: &str = "0xa";
/// `NFT_MSG_GETTABLE`, …CHAIN, …RULE, …SET, …SETELEM, …GEN, …OBJ and …FLOWTABLE.
const NFT_GET: [u8; 8] = [1, 4, 7, 10, 13, 16, 19, 23];

/// The record of one process under strace.
pub(crate) struct Trace(PathBuf);

impl Trace {
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        Self(directory.join(format!("{name}.strace")))
    }

    /// strace, to be given a program.
    pub(crate) fn strace(&self) -> Command {
        let mut command = Command::new("strace");
        // Whole messages, all of them, and every way to write a setting or to replace a file.
        let calls = "trace=sendto,sendmsg,sendmmsg,openat,rename,renameat,renameat2";
        command.args(["-f", "-v", "-s", "1000000", "-e", calls, "-e", "signal=none", "-o"]).arg(&self.0);
        command.arg("--");
        command
    }

    /// What the kernel was told by netlink, in order: `RTM_GETLINK`, `RTM_NEWROUTE`, and what nft tells the
    /// packet filter, `NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_GETTABLE` or by number, `0xa01`, …
    pub(crate) fn requests(&self) -> anyhow::Result<Vec<String>> {
        let text = self.text()?;
        let mut requests = Vec::new();
        for line in text.lines() {
            for kind in kinds(line) {
                ensure!(purpose(kind).is_some(), "not decoded: {line}");
                requests.push(kind.to_owned());
            }
        }
        ensure!(requests.iter().any(|kind| kind.starts_with("RTM_GET")), "no request at all in: {text}");
        Ok(requests)
    }

    /// Those that change links, routes and the like.
    pub(crate) fn writes(&self) -> anyhow::Result<Vec<String>> {
        self.of(Purpose::Write)
    }

    /// Those that change the packet filter.
    pub(crate) fn filter_writes(&self) -> anyhow::Result<Vec<String>> {
        self.of(Purpose::FilterWrite)
    }

    fn of(&self, wanted: Purpose) -> anyhow::Result<Vec<String>> {
        Ok(self.requests()?.into_iter().filter(|kind| purpose(kind) == Some(wanted)).collect())
    }

    /// Settings of the kernel that were opened to be written.
    pub(crate) fn settings_written(&self) -> anyhow::Result<Vec<String>> {
        let is_write = |line: &&str| {
            line.contains("\"/proc/sys/") && (line.contains("O_WRONLY") || line.contains("O_RDWR"))
        };
        Ok(self.text()?.lines().filter(is_write).map(str::to_owned).collect())
    }

    /// The kinds of writes before a file came to its name.
    pub(crate) fn writes_before(&self, file: &Path) -> anyhow::Result<Vec<String>> {
        let text = self.text()?;
        let name = format!("\"{}\"", file.display());
        let place = text
            .lines()
            .position(|line| line.contains("rename") && line.contains(&name))
            .with_context(|| format!("{name} was never put in place"))?;
        let before = text.lines().take(place).flat_map(kinds);
        Ok(before.filter(|kind| purpose(kind) == Some(Purpose::Write)).map(str::to_owned).collect())
    }

    fn text(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.0).with_context(|| format!("could not read {}", self.0.display()))
    }
}

/// What a message to the kernel is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    /// It changes nothing.
    Read,
    /// It changes links, addresses, neighbours or routes.
    Write,
    /// It changes the packet filter.
    FilterWrite,
    /// It only begins or ends what is changed at once.
    Frame,
}

/// The kinds of the messages in a line.
fn kinds(line: &str) -> impl Iterator<Item = &str> {
    let messages = line.split("nlmsg_type=").skip(1);
    messages.map(|message| message.split([',', '}', ' ']).next().unwrap_or_default())
}

/// What a message of this kind is for; `None` when that cannot be told.
fn purpose(kind: &str) -> Option<Purpose> {
    let of = |reads, write| if reads { Purpose::Read } else { write };
    if let Some(name) = kind.strip_prefix("RTM_") {
        return Some(of(name.starts_with("GET"), Purpose::Write));
    }
    if kind.starts_with("NFNL_MSG_BATCH_") {
        return Some(Purpose::Frame);
    }
    if let Some((_, name)) = kind.split_once("NFT_MSG_") {
        return Some(of(name.starts_with("GET"), Purpose::FilterWrite));
    }
    let number = u8::from_str_radix(kind.strip_prefix(NFTABLES)?, 16).ok()?;
    Some(of(NFT_GET.contains(&number), Purpose::FilterWrite))
}

#[test]
fn every_change_of_a_batch_is_seen() {
    let line = r#"9 sendmsg(3, {msg_iov=[{iov_base=[[{nlmsg_len=20, nlmsg_type=NFNL_MSG_BATCH_BEGIN, nlmsg_seq=0},
        {res_id=htons(10)}], [{nlmsg_len=40, nlmsg_type=NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_NEWTABLE, nlmsg_seq=1}],
        [{nlmsg_len=32, nlmsg_type=0xa02 /* NLMSG_??? */, nlmsg_seq=2}], [{nlmsg_type=NFNL_MSG_BATCH_END}]]}]})"#;
    let found: Vec<_> = kinds(line).map(purpose).collect();
    let [frame, change] = [Some(Purpose::Frame), Some(Purpose::FilterWrite)];
    assert_eq!(found, [frame, change, change, frame]);
    for read in ["RTM_GETROUTE", "NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_GETGEN", "0xa10"] {
        assert_eq!(purpose(read), Some(Purpose::Read), "{read}");
    }
    assert_eq!(purpose("RTM_DELNEIGH"), Some(Purpose::Write));
    assert_eq!(purpose("0x10"), None);
}
