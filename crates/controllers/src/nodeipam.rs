//! Node IPAM: gives each node a range of addresses for its pods, out of the cluster's.
//!
//! Upstream: `pkg/controller/nodeipam`, with its `RangeAllocator`.

use std::net::Ipv4Addr;
use std::sync::Arc;

use api::projection::NodeLite;
use client::Object;
use reconcile::plan::kinds::NODES;
use reconcile::{Action, Change, Controller, Facts, NodeRanges, Note, Now, Outcomes, Plan, Severity, View, Watch};

use crate::{owner, patch};

/// The controller that divides the cluster's range.
pub struct NodeIpamController;

impl Controller for NodeIpamController {
    const NAME: &'static str = "node-ipam";
    const COMPONENT: &'static str = "cidrAllocator";
    /// All nodes are decided about together: two decisions at once could give the same range twice.
    type Key = ();
    type Observed<'c> = Vec<Arc<Object>>;
    type Memory = ();

    fn watches() -> Vec<Watch<()>> {
        // A node that goes gives back its range, which may be what another waits for.
        let concerns = |view: &View, node: &Object| {
            let gone = view.get(NODES, node.key()).is_none();
            if gone || node.project::<NodeLite>().pod_cidrs.is_empty() { vec![()] } else { Vec::new() }
        };
        vec![Watch::mapped(NODES, concerns)]
    }

    fn observe(view: &View, (): &()) -> Vec<Arc<Object>> {
        view.all(NODES).collect()
    }

    fn reconcile(nodes: &Vec<Arc<Object>>, _: Now, _: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let Some(ranges) = &facts.node_ranges else { return Plan::nothing() };
        let cidrs = |node: &Arc<Object>| node.project::<NodeLite>().pod_cidrs.clone();
        let mut taken: Vec<(u32, u32)> = nodes.iter().flat_map(cidrs).filter_map(|cidr| bounds(&cidr)).collect();
        let chosen = |(_, start): &(Arc<str>, Ipv4Addr)| block((*start).into(), ranges.node_prefix);
        taken.extend(ranges.chosen.as_ref().map(chosen));
        let mut plan = Plan::nothing();
        let mut actions = Vec::new();
        let waiting = nodes.iter().filter(|node| cidrs(node).is_empty() && node.meta().deletion.is_none());
        for node in waiting {
            let own = ranges.chosen.as_ref().filter(|(name, _)| **name == *node.name()).map(chosen);
            match own.or_else(|| free(ranges, &taken)) {
                Some((first, last)) => {
                    taken.push((first, last));
                    actions.push(assign(node, &format!("{}/{}", Ipv4Addr::from(first), ranges.node_prefix)));
                }
                None => plan.notes.push(exhausted(node)),
            }
        }
        plan.then(actions)
    }
}

/// The first and the last address of a range; `None` for what is no range of IPv4 addresses.
fn bounds(cidr: &str) -> Option<(u32, u32)> {
    let (address, prefix) = cidr.split_once('/')?;
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    Some(block(address, prefix.parse().ok().filter(|prefix| *prefix <= 32)?))
}

fn block(address: u32, prefix: u8) -> (u32, u32) {
    let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    (address & !host, address | host)
}

/// The lowest range for a node that touches no other.
fn free(ranges: &NodeRanges, taken: &[(u32, u32)]) -> Option<(u32, u32)> {
    let (start, end) = block(ranges.network.into(), ranges.prefix);
    let mut at = start;
    loop {
        let (first, last) = block(at, ranges.node_prefix);
        if last > end {
            return None;
        }
        match taken.iter().filter(|(from, to)| *from <= last && first <= *to).map(|(_, to)| *to).max() {
            None => return Some((first, last)),
            Some(blocked) => at = blocked.max(last).checked_add(1)?,
        }
    }
}

fn assign(node: &Object, cidr: &str) -> Action {
    let spec = patch::object([("podCIDR", cidr.into()), ("podCIDRs", patch::list([cidr.into()]))]);
    let of = owner::reference_to(NODES, node);
    Change::Patch { of, subresource: None, body: patch::object([("spec", spec)]), revision: None }.into()
}

fn exhausted(node: &Object) -> Note {
    Note {
        regarding: owner::reference_to(NODES, node),
        field: String::new(),
        severity: Severity::Normal,
        reason: "CIDRNotAvailable",
        message: format!("Node {} status is now: CIDRNotAvailable", node.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    const RANGES: NodeRanges =
        NodeRanges { network: Ipv4Addr::new(10, 244, 0, 0), prefix: 22, node_prefix: 24, chosen: None };

    fn decide(world: &World) -> Plan {
        decide_with(world, RANGES)
    }

    fn decide_with(world: &World, ranges: NodeRanges) -> Plan {
        let facts = Facts { node_ranges: Some(ranges), ..Facts::default() };
        let now = Now { wall: world.now, mono: stdx::Mono::default() };
        let view = world.view(&[NODES]);
        NodeIpamController::reconcile(
            &NodeIpamController::observe(&view, &()),
            now,
            &Outcomes::default(),
            &facts,
            &mut (),
        )
    }

    #[test]
    fn gives_every_node_a_range_of_its_own_until_there_is_none() {
        let mut world = World::new();
        for name in ["a", "b", "c", "d", "e"] {
            world.create(NODES, "", &format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{}}}}"#));
        }
        // Somebody brought a range of another size along, which blocks the second and half of the third.
        world.edit(NODES, "", "c", r#"{"spec":{"podCIDR":"10.244.1.128/25","podCIDRs":["10.244.1.128/25"]}}"#);
        let plan = decide(&world);
        world.carry(plan, usize::MAX);
        let cidr = |world: &World, name: &str| {
            world.find(NODES, "", name).map(|node| node.project::<NodeLite>().pod_cidrs.join(",")).unwrap_or_default()
        };
        let all: Vec<String> = ["a", "b", "c", "d", "e"].iter().map(|name| cidr(&world, name)).collect();
        assert_eq!(all, ["10.244.0.0/24", "10.244.2.0/24", "10.244.1.128/25", "10.244.3.0/24", ""]);
        assert_eq!(world.told(), ["CIDRNotAvailable Node e status is now: CIDRNotAvailable"]);
        world.remove(NODES, &client::Key::new("", "b"));
        let plan = decide(&world);
        world.carry(plan, usize::MAX);
        assert_eq!(cidr(&world, "e"), "10.244.2.0/24");
    }

    #[test]
    fn a_range_that_was_chosen_is_kept_for_its_node() {
        let chosen: (Arc<str>, Ipv4Addr) = ("first".into(), Ipv4Addr::new(10, 244, 0, 0));
        let mut world = World::new();
        for name in ["early", "first"] {
            world.create(NODES, "", &format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{}}}}"#));
            let plan = decide_with(&world, NodeRanges { chosen: Some(chosen.clone()), ..RANGES });
            world.carry(plan, usize::MAX);
        }
        let cidr = |name: &str| {
            world.find(NODES, "", name).map(|node| node.project::<NodeLite>().pod_cidrs.join(",")).unwrap_or_default()
        };
        assert_eq!((cidr("early"), cidr("first")), ("10.244.1.0/24".into(), "10.244.0.0/24".into()));
    }
}
