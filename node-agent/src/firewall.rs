//! The one owner of our table in the packet filter, for all networks of the agent.
//!
//! ```text
//!  overviews ─▶ members ─▶ our table ──▶ nft ──▶ Filter, one per network ─▶ overviews
//!                    hints ──▶ compared, put back
//!  overviews ─▶ traffic ─▶ what the tables of others drop ──▶ warnings, rules of ours in them
//! ```
//!
//! What a network asked for stays in place while nothing is known of it, as its routes do. At a start
//! that is what the former process had noted of it.

mod others;
mod patient;
mod wanted;

use std::collections::BTreeMap;
use std::time::Duration;

use loden_datapath::firewall::{Firewall, FirewallError, FirewallHint, FirewallHints, Member, masquerade};
use loden_proto::names::NetworkId;
use loden_transport::explain;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use self::others::Others;
use self::patient::Patient;
use self::wanted::Wanted;
use crate::state::{KeptTable, TableFile};
use crate::status::{Filter, Overview};
use crate::upkeep::{LONGEST_WAIT, heard, next_audit, next_try};

/// Events come in flocks; a look waits for the rest of the flock.
const FLOCK: Duration = Duration::from_millis(10);
/// Repairs are at least this far apart: somebody may never cease to undo them.
const FIGHT: Duration = Duration::from_millis(100);

/// One network's ends.
pub(crate) struct Seat {
    pub(crate) overview: watch::Receiver<Overview>,
    pub(crate) filter: watch::Sender<Filter>,
}

/// Keeps our table as the networks want it.
pub(crate) struct Keeper<F> {
    firewall: Patient<F>,
    seats: BTreeMap<NetworkId, Seat>,
    wanted: Wanted,
    kept: Option<Kept>,
    file: TableFile,
    /// What is in the file: of a former process at first.
    noted: Option<KeptTable>,
    failed: Option<String>,
    retries: u32,
    due: Option<Instant>,
    last_put: Option<Instant>,
    others: Others,
    /// Why events cannot be heard.
    deaf: Option<String>,
    listen_due: Option<Instant>,
    audit_due: Instant,
}

/// Our table as it was put in place.
struct Kept {
    members: Vec<Member>,
    /// How it was listed right after.
    listing: Option<String>,
    /// Whether that was all of it: somebody may have been there between the two.
    whole: bool,
}

impl<F: Firewall> Keeper<F> {
    /// With `insert` rules of ours go into chains of others that would drop our packets.
    pub(crate) fn new(firewall: F, seats: BTreeMap<NetworkId, Seat>, insert: bool, file: TableFile) -> Self {
        Self {
            firewall: Patient::new(firewall, seats.values().map(|seat| seat.filter.clone())),
            seats,
            wanted: Wanted::default(),
            kept: None,
            noted: file.read(),
            file,
            failed: None,
            retries: 0,
            due: None,
            last_put: None,
            others: Others::new(insert),
            deaf: None,
            listen_due: None,
            audit_due: next_audit(),
        }
    }

    /// Runs until a channel closes.
    pub(crate) async fn run(mut self, mut changes: watch::Receiver<()>) {
        let mut hints = self.listen().await;
        self.due = Some(Instant::now());
        loop {
            self.take_in();
            self.work(&mut hints).await;
            self.publish();
            let due = self.next_due();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                hint = heard(&mut hints) => match hint {
                    Some(hint) => self.hinted(hint),
                    None => {
                        hints = None;
                        self.listen_due = Some(Instant::now() + FIGHT);
                    }
                },
                () = sleep_until(due) => {}
            }
        }
    }

    async fn listen(&mut self) -> Option<FirewallHints> {
        match self.firewall.hints().await {
            Ok(hints) => {
                self.deaf = None;
                Some(hints)
            }
            Err(error) => {
                let text = explain(&error);
                if !error.is_absence() && self.deaf.as_ref() != Some(&text) {
                    warn!(error = text, "events of the packet filter cannot be heard");
                }
                self.deaf = Some(text);
                self.listen_due = Some(Instant::now() + LONGEST_WAIT);
                None
            }
        }
    }

    fn take_in(&mut self) {
        let overviews = self.seats.iter().map(|(network, seat)| (network, seat.overview.borrow()));
        let noted = self.noted.as_ref().map_or(&[][..], |noted| &noted.members);
        let wanted = Wanted::of(overviews, noted);
        if wanted.members != self.wanted.members || wanted.all_known != self.wanted.all_known {
            self.due = Some(Instant::now());
        }
        if wanted.traffic != self.wanted.traffic || wanted.all_known != self.wanted.all_known {
            self.others.changed();
        }
        self.wanted = wanted;
    }

    fn hinted(&mut self, hint: FirewallHint) {
        if hint != FirewallHint::Others {
            let soon = Instant::now() + FLOCK;
            let due = self.last_put.map_or(soon, |last| soon.max(last + FIGHT));
            self.due = Some(self.due.map_or(due, |before| before.min(due)));
        }
        if hint != FirewallHint::Ours {
            self.others.hinted();
        }
    }

    fn next_due(&self) -> Instant {
        let due = [self.due, self.others.due(), self.listen_due];
        due.into_iter().flatten().fold(self.audit_due, Instant::min)
    }

    async fn work(&mut self, hints: &mut Option<FirewallHints>) {
        let now = Instant::now();
        if self.listen_due.is_some_and(|due| due <= now) {
            self.listen_due = None;
            *hints = self.listen().await;
            // Whatever was missed meanwhile.
            self.hinted(FirewallHint::Overrun);
        }
        if self.audit_due <= now {
            self.audit_due = next_audit();
            self.hinted(FirewallHint::Overrun);
        }
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            match self.look().await {
                Ok(()) => (self.failed, self.retries) = (None, 0),
                Err(error) => self.fail(&error),
            }
        }
        if self.others.due().is_some_and(|due| due <= now) {
            self.others.look(&mut self.firewall, &self.wanted).await;
        }
    }

    /// Looks at our table and puts it in place where it is not as wanted.
    async fn look(&mut self) -> Result<(), FirewallError> {
        let text = masquerade::table(&self.wanted.members);
        let listing = match self.firewall.table().await {
            // Whoever wants no rules needs no nft.
            Err(error) if text.is_none() && self.kept.as_ref().is_none_or(|kept| kept.listing.is_none()) => {
                debug!(error = explain(&error), "the packet filter cannot be looked at");
                return Ok(());
            }
            listing => listing?,
        };
        let again = self.kept.as_ref().is_some_and(|kept| kept.members == self.wanted.members);
        let as_kept = self.kept.as_ref().is_some_and(|kept| kept.whole && kept.listing == listing);
        if (again && as_kept) || !self.wanted.may_replace(listing.as_deref()) {
            return Ok(());
        }
        let members = self.wanted.members.clone();
        if self.kept.is_none() && self.is_as_noted(text.as_deref(), listing.as_deref()) {
            self.kept = Some(Kept { members, listing, whole: true });
            return Ok(());
        }
        if text.is_some() || listing.is_some() {
            let begin = Instant::now();
            self.firewall.replace(text.as_deref()).await?;
            self.last_put = Some(Instant::now());
            let why = if again { "drift" } else { "networks" };
            info!(why, rules = text.is_some(), took = ?begin.elapsed(), "table inet loden put in place");
        }
        let listing = self.firewall.table().await?;
        let whole = masquerade::is_whole(listing.as_deref(), text.as_deref());
        if whole {
            self.note(text.zip(listing.clone()), &members).await;
        } else {
            self.hinted(FirewallHint::Ours);
        }
        self.kept = Some(Kept { members, listing, whole });
        Ok(())
    }

    /// Whether our table is what somebody has put in place for the same networks.
    fn is_as_noted(&self, text: Option<&str>, listing: Option<&str>) -> bool {
        self.noted
            .as_ref()
            .is_some_and(|noted| text == Some(noted.text.as_str()) && listing == Some(noted.listing.as_str()))
    }

    /// Has the next process know what we have put in place. A repair leaves the file as it is.
    async fn note(&mut self, table: Option<(String, String)>, members: &[Member]) {
        let table = table.map(|(text, listing)| KeptTable { text, listing, members: members.to_vec() });
        if table == self.noted {
            return;
        }
        match self.file.keep(table.as_ref()).await {
            Ok(()) => self.noted = table,
            Err(error) => warn!(
                error = explain(&error),
                "table inet loden cannot be kept; the next start puts it in place again"
            ),
        }
    }

    fn fail(&mut self, error: &FirewallError) {
        let text = explain(error);
        if self.failed.as_ref() != Some(&text) {
            warn!(error = text, "table inet loden cannot be put in place");
        }
        self.due = Some(next_try(self.retries));
        self.retries = self.retries.saturating_add(1);
        self.failed = Some(text);
    }

    fn publish(&self) {
        for (network, seat) in &self.seats {
            let kept = self.kept.iter().flat_map(|kept| &kept.members);
            let mut kept = kept.filter(|member| member.network == *network);
            let filter = Filter {
                masquerades: kept.any(|member| member.masquerade.is_some()),
                failed: self.failed.clone(),
                warnings: self.others.warnings(network),
            };
            seat.filter.send_if_modified(|before| {
                let changed = *before != filter;
                if changed {
                    *before = filter;
                }
                changed
            });
        }
    }
}
