//! What the machine throws away: a packet between two namespaces waits in a queue of the processor, which all
//! namespaces share. Where that is full, somebody's packet is lost, whatever the network is like.

use std::fs;

/// How many packets all processors have thrown away so far; 0 where that cannot be seen.
pub(super) fn overrun() -> u64 {
    fs::read_to_string("/proc/net/softnet_stat").map_or(0, |text| dropped(&text))
}

/// The second column of each processor's line, in hexadecimal.
fn dropped(text: &str) -> u64 {
    let columns = text.lines().filter_map(|line| line.split_whitespace().nth(1));
    columns.filter_map(|count| u64::from_str_radix(count, 16).ok()).sum()
}

#[test]
fn the_drops_of_all_processors_are_counted() {
    let text = "0000002b 00000000 00000000\n00006810 0000001f 00000001\n00000001 00000002 00000000\n";
    assert_eq!(dropped(text), 33);
}
