//! A cold start with the state of another server: the C server's own stream of the same release.

use std::collections::BTreeSet;

use crate::harness::{RELEASES_WITH_GUESTS, boot, c_server};

/// Nodes that may differ: `init-xenstore-domain` writes them about the domain that it starts.
const OWN_NODES: [&str; 5] =
    ["/tool/xenstored", "/local/domain/1", "/local/domain/0/backend", "/libxl/1", "/local/domain/0/libxl/xen-9pfs"];

/// Returns the lines of `xenstore-ls -fp`, except for [`OWN_NODES`] and the empty nodes above them.
fn nodes(listing: &str) -> BTreeSet<&str> {
    let leads_there = |line: &&str| line.starts_with("/local/domain/0/libxl = ");
    let is_own = |line: &&str| OWN_NODES.iter().any(|own| line.starts_with(own));
    listing.lines().filter(|line| !is_own(line) && !leads_there(line)).collect()
}

#[test]
fn a_stream_of_the_c_server_is_the_store_after_a_cold_start() {
    for release in RELEASES_WITH_GUESTS {
        let before = c_server(release);
        let output = before.section("dump");
        assert!(!output.contains("FAILED"), "Xen {release}:\n{output}");
        let stream = before.path("stream");
        let stream = stream.to_str().expect("a path in UTF-8");
        let job = ". /functions\nsection cold 60 sh -l /job/cold.sh\n";
        let after = boot(&format!("{release} cold"), release, job, &["--ramdisk", stream]);
        let output = after.section("cold");
        assert!(!output.contains("FAILED"), "Xen {release}:\n{output}");
        let (before, after) = (before.file("dumped.txt"), after.file("restored.txt"));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        let (before, after) = (nodes(&before), nodes(&after));
        println!("Xen {release}: {} nodes before, {} after", before.len(), after.len());
        assert!(before.len() > 200);
        let only = |these: &BTreeSet<&str>, those: &BTreeSet<&str>| {
            these.difference(those).map(|line| (*line).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((only(&before, &after), only(&after, &before)), (vec![], vec![]), "Xen {release}");
    }
}
