//! The measurements by test, size and server, with their medians and spreads.

use std::collections::BTreeMap;

use crate::load::Cost;
use crate::server::Kind;

/// A test: its group, its kind of request, and the size of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// The group: the table with this test.
    pub group: Group,
    /// The measured requests.
    pub name: &'static str,
    /// Number of nodes, children, watches or domains; 0 for a test without a size.
    pub size: usize,
}

/// Tests that are run on one server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Single kinds of requests on a small store.
    Plain,
    /// The same on two processors; all other groups use one.
    Two,
    /// A growing number of nodes.
    Nodes,
    /// A growing number of children of one node.
    Children,
    /// A growing number of watches.
    Watches,
    /// A growing number of connected domains.
    Domains,
}

impl Group {
    /// All groups, in the order of the report.
    pub const ALL: [Self; 6] = [Self::Plain, Self::Two, Self::Nodes, Self::Children, Self::Watches, Self::Domains];

    /// Returns the group's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Two => "two",
            Self::Nodes => "nodes",
            Self::Children => "children",
            Self::Watches => "watches",
            Self::Domains => "domains",
        }
    }
}

/// All measurements.
#[derive(Default)]
pub struct Results {
    costs: BTreeMap<(Test, Kind), Vec<Cost>>,
    latencies: BTreeMap<(&'static str, Kind), Vec<u64>>,
    memory: BTreeMap<(usize, Kind), Vec<f64>>,
}

/// The median and the spread of some figures.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The median.
    pub median: f64,
    /// The smallest figure.
    pub least: f64,
    /// The largest figure.
    pub most: f64,
}

impl Figure {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, least, most })
    }
}

impl Results {
    /// Adds the cost of a test in one round.
    pub fn note(&mut self, test: Test, server: Kind, cost: Cost) {
        eprintln!(
            "    {:<9} {:>8} {:<12} {:>10.3} µs CPU {:>10.3} µs",
            test.name,
            test.size,
            server.name(),
            cost.cpu_us,
            cost.wall_us
        );
        self.costs.entry((test, server)).or_default().push(cost);
    }

    /// Adds the times of single requests, in nanoseconds.
    pub fn note_latencies(&mut self, name: &'static str, server: Kind, latencies: &[u64]) {
        self.latencies.entry((name, server)).or_default().extend_from_slice(latencies);
    }

    /// Adds the resident memory that one node took, in bytes.
    pub fn note_memory(&mut self, nodes: usize, server: Kind, bytes: f64) {
        self.memory.entry((nodes, server)).or_default().push(bytes);
    }

    /// Returns the server's CPU time for one request, in microseconds.
    pub fn cpu(&self, test: Test, server: Kind) -> Option<Figure> {
        Figure::of(self.costs.get(&(test, server))?.iter().map(|cost| cost.cpu_us).collect())
    }

    /// Returns the requests per second.
    pub fn throughput(&self, test: Test, server: Kind) -> Option<Figure> {
        Figure::of(self.costs.get(&(test, server))?.iter().map(|cost| 1e6 / cost.wall_us).collect())
    }

    /// Returns the resident memory that one node took, in bytes.
    pub fn memory(&self, nodes: usize, server: Kind) -> Option<Figure> {
        Figure::of(self.memory.get(&(nodes, server))?.clone())
    }

    /// Returns the times of single requests in microseconds, the shortest first.
    pub fn latencies(&self, name: &str, server: Kind) -> Vec<f64> {
        let found = self.latencies.iter().find(|((have, of), _)| *have == name && *of == server);
        let mut all: Vec<f64> = found.into_iter().flat_map(|(_, all)| all).map(|ns| *ns as f64 / 1000.0).collect();
        all.sort_unstable_by(f64::total_cmp);
        all
    }

    /// Returns the finished tests of a group.
    pub fn tests(&self, group: Group) -> Vec<Test> {
        let mut tests: Vec<Test> =
            self.costs.keys().map(|(test, _)| *test).filter(|test| test.group == group).collect();
        tests.dedup();
        tests
    }
}
