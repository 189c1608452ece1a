//! The tree and its transactions against a model that is obviously correct: a map of paths, copied freely.

use std::collections::BTreeMap;

use xenstore::engine::config::Config;
use xenstore::wire::header::MessageType;

use crate::support::random::{Random, Seed};
use crate::support::testbed::{Answer, Testbed, error, ok, strings};

#[derive(Clone, Debug, PartialEq)]
struct Node {
    value: String,
    permissions: String,
    children: Vec<String>,
    /// A number that differs after each change.
    version: u64,
}

/// A client's view: all nodes, or those of a transaction.
trait View {
    fn look(&mut self, path: &str) -> Option<Node>;
    fn set(&mut self, path: &str, node: Option<Node>);
}

#[derive(Default)]
struct Store {
    nodes: BTreeMap<String, Node>,
    versions: u64,
}

impl View for Store {
    fn look(&mut self, path: &str) -> Option<Node> {
        self.nodes.get(path).cloned()
    }

    fn set(&mut self, path: &str, node: Option<Node>) {
        self.versions += 1;
        match node {
            Some(node) => drop(self.nodes.insert(path.into(), Node { version: self.versions, ..node })),
            None => drop(self.nodes.remove(path)),
        }
    }
}

/// The paths that a transaction has accessed: their first contents, and their present ones.
#[derive(Default)]
struct Transaction {
    seen: BTreeMap<String, Option<Node>>,
    changed: BTreeMap<String, Option<Node>>,
    /// Requests and their replies.
    requests: Vec<(MessageType, String, String, Answer)>,
}

struct InTransaction<'a>(&'a Store, &'a mut Transaction);

impl View for InTransaction<'_> {
    fn look(&mut self, path: &str) -> Option<Node> {
        let seen = self.1.seen.entry(path.into()).or_insert_with(|| self.0.nodes.get(path).cloned());
        self.1.changed.get(path).unwrap_or(seen).clone()
    }

    fn set(&mut self, path: &str, node: Option<Node>) {
        self.1.changed.insert(path.into(), node);
    }
}

fn parent(path: &str) -> &str {
    match path.rsplit_once('/').unwrap().0 {
        "" => "/",
        parent => parent,
    }
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').unwrap().1
}

fn child(path: &str, name: &str) -> String {
    format!("{}/{name}", if path == "/" { "" } else { path })
}

/// Returns the node. If it is missing, accesses each ancestor up to the first that exists.
fn find(view: &mut dyn View, path: &str) -> Option<Node> {
    let found = view.look(path);
    let mut above = path;
    while found.is_none() && above != "/" {
        above = parent(above);
        if view.look(above).is_some() {
            break;
        }
    }
    found
}

fn read(view: &mut dyn View, path: &str) -> Answer {
    find(view, path).map_or(error("ENOENT"), |node| Ok(node.value.into_bytes()))
}

fn directory(view: &mut dyn View, path: &str) -> Answer {
    let list = |node: Node| node.children.iter().map(|name| format!("{name}\0")).collect::<String>();
    find(view, path).map_or(error("ENOENT"), |node| Ok(list(node).into_bytes()))
}

fn permissions(view: &mut dyn View, path: &str) -> Answer {
    find(view, path).map_or(error("ENOENT"), |node| Ok((node.permissions.replace(' ', "\0") + "\0").into_bytes()))
}

/// Makes a node and its missing ancestors.
fn make(view: &mut dyn View, path: &str, value: &str) {
    let above = parent(path);
    if view.look(above).is_none() {
        make(view, above, "");
    }
    let mut node = view.look(above).unwrap();
    // In a transaction, the list may still name a child that others have removed meanwhile: the commit will conflict.
    if !node.children.iter().any(|have| have == name(path)) {
        node.children.push(name(path).into());
    }
    let new = Node { value: value.into(), permissions: node.permissions.clone(), children: vec![], version: 0 };
    view.set(above, Some(node));
    view.set(path, Some(new));
}

fn write(view: &mut dyn View, path: &str, value: &str) -> Answer {
    match find(view, path) {
        Some(node) => view.set(path, Some(Node { value: value.into(), ..node })),
        None => make(view, path, value),
    }
    ok()
}

fn mkdir(view: &mut dyn View, path: &str) -> Answer {
    if find(view, path).is_none() {
        make(view, path, "");
    }
    ok()
}

fn set_permissions(view: &mut dyn View, path: &str, permissions: &str) -> Answer {
    let Some(node) = find(view, path) else { return error("ENOENT") };
    view.set(path, Some(Node { permissions: permissions.into(), ..node }));
    ok()
}

fn remove_all(view: &mut dyn View, path: &str) {
    let Some(node) = view.look(path) else { return };
    for name in &node.children {
        remove_all(view, &child(path, name));
    }
    view.set(path, None);
}

fn rm(view: &mut dyn View, path: &str) -> Answer {
    if find(view, path).is_none() {
        return if view.look(parent(path)).is_some() { ok() } else { error("ENOENT") };
    }
    if path == "/" {
        return error("EINVAL");
    }
    let above = view.look(parent(path));
    remove_all(view, path);
    // In a transaction, a parent that was not accessed before may be gone: the commit will conflict.
    if let Some(mut above) = above {
        above.children.retain(|have| have != name(path));
        view.set(parent(path), Some(above));
    }
    ok()
}

fn answer(view: &mut dyn View, kind: MessageType, path: &str, extra: &str) -> Answer {
    match kind {
        MessageType::Read => read(view, path),
        MessageType::Directory => directory(view, path),
        MessageType::GetPerms => permissions(view, path),
        MessageType::Write => write(view, path, extra),
        MessageType::Mkdir => mkdir(view, path),
        MessageType::Rm => rm(view, path),
        MessageType::SetPerms => set_permissions(view, path, extra.trim_end_matches('\0').replace('\0', " ").as_str()),
        _ => unreachable!("{kind:?} is not modelled"),
    }
}

/// Ends a transaction. With `replay`, a conflict is no obstacle if all requests would have the same replies now.
fn end(store: &mut Store, mut transaction: Transaction, commit: bool, replay: bool) -> Answer {
    if !commit {
        return ok();
    }
    let version = |node: Option<&Node>| node.map(|node| node.version);
    if transaction.seen.iter().any(|(path, seen)| version(seen.as_ref()) != version(store.nodes.get(path))) {
        let mut again = Transaction::default();
        let mut is_same = |(kind, path, extra, before): &(MessageType, String, String, Answer)| {
            answer(&mut InTransaction(store, &mut again), *kind, path, extra) == *before
        };
        if !replay || !transaction.requests.iter().all(&mut is_same) {
            return error("EAGAIN");
        }
        transaction = again;
    }
    for (path, node) in transaction.changed {
        store.set(&path, node);
    }
    ok()
}

/// Returns a path of up to four names, or the root.
fn random_path(random: &mut Random) -> String {
    let names: String = (0..random.below(5)).map(|_| format!("/{}", random.one_of(&["a", "b", "c"]))).collect();
    if names.is_empty() { "/".into() } else { names }
}

/// Checks that the store has exactly the nodes of the model.
fn compare(testbed: &mut Testbed, store: &mut Store) {
    let mut found = 0;
    let mut open = vec!["/".to_owned()];
    while let Some(path) = open.pop() {
        assert_eq!(testbed.request(0, MessageType::Directory, format!("{path}\0")), directory(store, &path), "{path}");
        assert_eq!(testbed.read(0, &path), read(store, &path), "{path}");
        assert_eq!(testbed.request(0, MessageType::GetPerms, format!("{path}\0")), permissions(store, &path), "{path}");
        open.extend(store.nodes[&path].children.iter().map(|name| child(&path, name)));
        found += 1;
    }
    assert_eq!(found, store.nodes.len(), "the model is consistent");
    testbed.check();
}

fn run(seed: u64, steps: usize, replay: bool) -> (usize, usize) {
    let _seed = Seed(seed);
    let mut random = Random::new(seed);
    let mut testbed = Testbed::with(Config { replay, ..Config::default() });
    for domid in 1..=3 {
        testbed.start(domid);
    }
    testbed.rm(0, "/tool").unwrap();
    let mut store = Store::default();
    store.set("/", Some(Node { value: String::new(), permissions: "n0".into(), children: vec![], version: 0 }));
    let mut open: BTreeMap<u32, Transaction> = BTreeMap::new();
    let (mut committed, mut refused) = (0, 0);
    for step in 0..steps {
        let path = random_path(&mut random);
        let numbers: Vec<u32> = open.keys().copied().chain([0]).collect();
        let number = *random.one_of(&numbers);
        let (kind, extra) = match random.below(20) {
            0..4 => (MessageType::Read, String::new()),
            4..7 => (MessageType::Directory, String::new()),
            7..8 => (MessageType::GetPerms, String::new()),
            8..12 => (MessageType::Write, step.to_string()),
            12..14 => (MessageType::Mkdir, String::new()),
            14..17 => (MessageType::Rm, String::new()),
            17..18 => {
                let letter = random.one_of(&["n", "r", "w", "b"]);
                (MessageType::SetPerms, format!("n{}\0{letter}{}\0", random.below(4), random.below(4)))
            }
            _ => (MessageType::TransactionEnd, String::new()),
        };
        let payload = format!("{path}\0{extra}");
        if kind != MessageType::TransactionEnd {
            let expected = match open.get_mut(&number) {
                Some(transaction) => {
                    let expected = answer(&mut InTransaction(&store, transaction), kind, &path, &extra);
                    transaction.requests.push((kind, path.clone(), extra.clone(), expected.clone()));
                    expected
                }
                None => answer(&mut store, kind, &path, &extra),
            };
            let answer = testbed.request_in(0, number, kind.to_wire(), &payload);
            assert_eq!(answer, expected, "step {step}: {kind:?} {payload:?} in {number}");
        } else if let Some(transaction) = open.remove(&number) {
            let commit = !random.once_in(5);
            let expected = end(&mut store, transaction, commit, replay);
            assert_eq!(testbed.end(0, number, commit), expected, "step {step}: end of {number}");
            committed += usize::from(commit && expected.is_ok());
            refused += usize::from(expected.is_err());
        } else if open.len() < 4 {
            assert!(open.insert(testbed.begin(0), Transaction::default()).is_none());
        }
        if step % 500 == 0 {
            compare(&mut testbed, &mut store);
        }
    }
    compare(&mut testbed, &mut store);
    assert!(strings(&testbed.request(0, MessageType::Directory, "/\0").unwrap()).len() <= 3);
    (committed, refused)
}

#[test]
fn the_store_answers_what_the_model_answers() {
    compare_with_model(false);
}

#[test]
fn a_replay_commits_what_the_model_commits() {
    compare_with_model(true);
}

fn compare_with_model(replay: bool) {
    let (mut committed, mut refused) = (0, 0);
    const SEEDS: u64 = 10;
    const STEPS: usize = 10_000;
    for seed in 1..=SEEDS {
        let counts = run(seed, STEPS, replay);
        committed += counts.0;
        refused += counts.1;
    }
    println!("{} steps, {committed} commits, {refused} conflicts", SEEDS * STEPS as u64);
    assert!(committed > 500 && refused > 500, "both outcomes occurred: {committed} {refused}");
}
