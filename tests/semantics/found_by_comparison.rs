//! Defects found by the comparison with other servers.

use crate::support::testbed::{Testbed, error, ok};

#[test]
fn a_root_that_was_given_away_outlives_its_owner_with_all_that_others_have() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.write(2, "stays", "x").unwrap();
    testbed.write(1, "goes", "x").unwrap();
    assert_eq!(testbed.set_perms(0, "/", "n1 r2"), ok());
    testbed.kill(1);
    assert_eq!(testbed.get_perms(0, "/"), Ok("n0 r2".into()));
    assert_eq!(testbed.directory(0, "/local/domain"), Ok(vec!["2".into()]));
    assert_eq!(testbed.read(2, "stays"), Ok(b"x".to_vec()));
    assert_eq!((testbed.nodes(1), testbed.nodes(2)), (0, 2));
    assert_eq!(testbed.write(2, "/new", "x"), error("EACCES"));
    testbed.check();
}
