//! What the comparison with other servers has found.

use crate::world::{World, error, ok};

#[test]
fn a_root_that_was_given_away_outlives_its_owner_with_all_that_others_have() {
    let mut world = World::with_homes([1, 2]);
    world.write(2, "stays", "x").unwrap();
    world.write(1, "goes", "x").unwrap();
    assert_eq!(world.set_perms(0, "/", "n1 r2"), ok());
    world.kill(1);
    assert_eq!(world.get_perms(0, "/"), Ok("n0 r2".into()));
    assert_eq!(world.directory(0, "/local/domain"), Ok(vec!["2".into()]));
    assert_eq!(world.read(2, "stays"), Ok(b"x".to_vec()));
    assert_eq!((world.nodes(1), world.nodes(2)), (0, 2));
    assert_eq!(world.write(2, "/new", "x"), error("EACCES"));
    world.check();
}
