use proptest::prelude::*;

use super::*;

const BASE: u16 = 1200;
const MOST: u16 = 1440;
const TICK: Duration = Duration::from_millis(100);

/// A path, and time as it goes by.
struct World {
    search: Search,
    now: Instant,
    passes: u16,
    probes: usize,
}

impl World {
    fn new(passes: u16) -> Self {
        let now = Instant::now();
        Self { search: Search::new(BASE, MOST, now), now, passes, probes: 0 }
    }

    fn run(&mut self, how_long: Duration) {
        let end = self.now + how_long;
        while self.now < end {
            self.probes += 1;
            let nonce = self.probes as u64;
            if let Some(probe) = self.search.poll(self.now, nonce) {
                assert!((BASE..=MOST).contains(&probe.size));
                if probe.size <= self.passes {
                    self.search.answered(nonce, self.now);
                }
            }
            self.now += TICK;
        }
    }
}

#[test]
fn what_is_wanted_is_hoped_for_and_stays_while_it_passes() {
    let mut world = World::new(MOST);
    assert_eq!(world.search.mtu(), MOST);
    world.run(Duration::from_secs(1200));
    assert_eq!(world.search.mtu(), MOST);
}

#[test]
fn a_black_hole_is_left_within_two_seconds_and_what_passes_is_found() {
    let mut world = World::new(1300);
    world.run(Duration::from_secs(2));
    assert_eq!(world.search.mtu() / 100, 12, "at the base, or a bit further");
    world.run(Duration::from_secs(20));
    assert!((1300 - STEP..=1300).contains(&world.search.mtu()), "{}", world.search.mtu());
}

#[test]
fn a_path_that_becomes_narrow_later_is_noticed_and_a_wide_one_again_after_ten_minutes() {
    let mut world = World::new(MOST);
    world.run(Duration::from_secs(60));
    world.passes = 1350;
    world.run(CONFIRM + Duration::from_secs(20));
    let narrow = world.search.mtu();
    assert!((1350 - STEP..=1350).contains(&narrow), "{narrow}");
    world.passes = MOST;
    world.run(RAISE / 2);
    assert_eq!(world.search.mtu(), narrow);
    world.run(RAISE);
    assert_eq!(world.search.mtu(), MOST);
}

#[test]
fn what_a_router_says_is_taken_at_once_within_bounds_and_never_raises() {
    let mut world = World::new(MOST);
    world.search.refused(1400, world.now);
    assert_eq!(world.search.mtu(), 1400);
    world.search.refused(1420, world.now);
    assert_eq!(world.search.mtu(), 1400);
    world.search.refused(68, world.now);
    assert_eq!(world.search.mtu(), BASE);
}

#[test]
fn a_wrong_or_late_answer_changes_nothing() {
    let now = Instant::now();
    let mut search = Search::new(BASE, MOST, now);
    search.refused(1300, now);
    let probe = search.poll(now, 7).unwrap();
    assert_eq!(probe, Probe { size: 1300, nonce: 7 });
    search.answered(8, now);
    assert_eq!(search.poll(now + PATIENCE, 9), Some(Probe { size: 1300, nonce: 9 }), "asked again");
    search.answered(7, now + PATIENCE);
    assert!(search.poll(now + PATIENCE * 2, 10).is_some());
}

proptest! {
    #[test]
    fn it_finds_what_passes_whatever_happened_before(
        before in prop::collection::vec((BASE..=MOST, 0_u64..900, prop::option::of(any::<u16>())), 0..6),
        passes in BASE..=MOST,
    ) {
        let mut world = World::new(MOST);
        for (passes, seconds, said) in before {
            world.passes = passes;
            if let Some(said) = said {
                world.search.refused(said, world.now);
            }
            world.run(Duration::from_secs(seconds));
        }
        world.passes = passes;
        world.run(RAISE + Duration::from_secs(60));
        let found = world.search.mtu();
        prop_assert!(found <= passes && found + STEP >= passes, "{found} of {passes}");
    }
}
