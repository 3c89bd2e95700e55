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

    /// What the kernel was asked for by netlink, in order: `RTM_GETLINK`, `RTM_NEWROUTE`, and what nft asks
    /// the packet filter, `NFNL_SUBSYS_NFTABLES<<8|NFT_MSG_GETTABLE` or by number, `0xa01`, …
    pub(crate) fn requests(&self) -> anyhow::Result<Vec<String>> {
        let text = self.text()?;
        let mut requests = Vec::new();
        for line in text.lines() {
            for message in line.split("nlmsg_type=").skip(1) {
                let kind = message.split([',', '}', ' ']).next().unwrap_or_default();
                let known =
                    kind.starts_with("RTM_") || kind.contains("NFT_MSG_") || kind.starts_with(NFTABLES);
                ensure!(known, "not decoded: {line}");
                requests.push(kind.to_owned());
            }
        }
        ensure!(requests.iter().any(|kind| kind.starts_with("RTM_GET")), "no request at all in: {text}");
        Ok(requests)
    }

    /// Those that change something.
    pub(crate) fn writes(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.requests()?.into_iter().filter(|kind| !asks(kind)).collect())
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
        let before = text.lines().take(place);
        let kinds = before.flat_map(|line| line.split("nlmsg_type=").skip(1));
        let kinds = kinds.map(|message| message.split([',', '}', ' ']).next().unwrap_or_default());
        Ok(kinds.filter(|kind| !asks(kind)).map(str::to_owned).collect())
    }

    fn text(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.0).with_context(|| format!("could not read {}", self.0.display()))
    }
}

/// Whether a request changes nothing.
fn asks(kind: &str) -> bool {
    let nft = kind.strip_prefix(NFTABLES).and_then(|number| u8::from_str_radix(number, 16).ok());
    let named = kind.starts_with("RTM_GET") || kind.contains("NFT_MSG_GET");
    named || nft.is_some_and(|number| NFT_GET.contains(&number))
}
