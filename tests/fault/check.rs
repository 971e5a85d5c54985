//! The judge. It sees only what stands outside of the system: what the API says at the end, and the ledger.

use std::collections::BTreeMap;

use millrace_tests::ledger::{Entry, What};
use serde_json::{Value, json};

use crate::STEPS;

/// An instance that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// What it was given; each step adds 1.
    pub(crate) total: u64,
    /// What the API says of it; `None` when it does not know it.
    pub(crate) view: Option<Value>,
    pub(crate) history: Vec<Value>,
}

/// Name of a step's task.
pub(crate) fn task_name(step: u32) -> String {
    format!("s{step}")
}

/// Everything that is not as it must be.
pub(crate) fn violations(instances: &BTreeMap<String, Seen>, ledger: &[Entry]) -> Vec<String> {
    let mut found: Vec<String> = instances
        .iter()
        .flat_map(|(id, seen)| of_instance(id, seen))
        .collect();
    found.extend(of_keys(ledger));
    let mut places: BTreeMap<(&str, u32), Vec<&Entry>> = BTreeMap::new();
    for entry in ledger {
        places.entry(entry.place()).or_default().push(entry);
    }
    found.extend(places.keys().filter_map(|(id, step)| {
        let is_known = instances.contains_key(*id) && (1..=STEPS).contains(step);
        (!is_known).then(|| format!("{id}: step {step} was run, but was never asked for"))
    }));
    for (id, seen) in instances {
        let mut before = None;
        for step in 1..=STEPS {
            let entries = places.get(&(id.as_str(), step)).map_or(&[][..], Vec::as_slice);
            found.extend(of_step(id, seen, step, entries, before));
            before = first(entries, What::End);
        }
    }
    found
}

/// Executions beyond the first of each step.
pub(crate) fn extra_executions(ledger: &[Entry]) -> usize {
    let begun = ledger.iter().filter(|e| e.what == What::Begin);
    let places: std::collections::BTreeSet<_> = begun.clone().map(Entry::place).collect();
    begun.count() - places.len()
}

fn of_instance(id: &str, seen: &Seen) -> Vec<String> {
    let Some(view) = &seen.view else {
        return vec![format!("{id}: accepted, but lost")];
    };
    let mut found = Vec::new();
    if view["status"] != "completed" {
        found.push(format!("{id}: accepted, but not completed: {view}"));
    }
    let expected = json!({"step": STEPS, "total": seen.total + u64::from(STEPS)});
    if !millrace_tests::yaml::same(&view["output"], &expected) {
        found.push(format!("{id}: output is {}, expected {expected}", view["output"]));
    }
    let completed: Vec<_> = seen
        .history
        .iter()
        .filter(|e| e["type"] == "task.completed")
        .map(|e| e["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    if completed != (1..=STEPS).map(task_name).collect::<Vec<_>>() {
        found.push(format!("{id}: results were applied in this order: {completed:?}"));
    }
    found
}

/// A key stands for one step of one instance.
fn of_keys(ledger: &[Entry]) -> Vec<String> {
    let mut owners: BTreeMap<&str, (&str, u32)> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in ledger {
        let owner = *owners.entry(&entry.key).or_insert_with(|| entry.place());
        if owner != entry.place() {
            found.push(format!(
                "key {} is used by {owner:?} and {:?}",
                entry.key,
                entry.place()
            ));
        }
    }
    found
}

fn of_step(id: &str, seen: &Seen, step: u32, entries: &[&Entry], before: Option<u64>) -> Vec<String> {
    let mut found = Vec::new();
    if first(entries, What::End).is_none() {
        found.push(format!("{id}: step {step} was never run to its end"));
    }
    if entries.iter().any(|e| e.key != entries[0].key) {
        found.push(format!("{id}: step {step} was run with different keys"));
    }
    let given = seen.total + u64::from(step) - 1;
    found.extend(entries.iter().filter(|e| e.total != given).map(|e| {
        format!(
            "{id}: step {step} was given the sum {}, expected {given}",
            e.total
        )
    }));
    if step > 1 && first(entries, What::Begin).is_some_and(|begun| before.is_none_or(|ended| begun < ended)) {
        found.push(format!(
            "{id}: step {step} began before step {} had ended once",
            step - 1
        ));
    }
    found
}

fn first(entries: &[&Entry], what: What) -> Option<u64> {
    entries.iter().filter(|e| e.what == what).map(|e| e.at).min()
}

/// The judge judged: made-up evidence, once as it must be and then wrong in one way each.
#[cfg(test)]
mod tests {
    use super::*;

    type Evidence = (BTreeMap<String, Seen>, Vec<Entry>);

    fn good() -> Evidence {
        let (mut instances, mut ledger) = (BTreeMap::new(), Vec::new());
        for (number, id) in ["a", "b"].into_iter().enumerate() {
            let total = number as u64 * 1_000;
            let history = (1..=STEPS).map(|s| json!({"type": "task.completed", "name": task_name(s)}));
            let view =
                json!({"status": "completed", "output": {"step": STEPS, "total": total + u64::from(STEPS)}});
            for step in 1..=STEPS {
                ledger.push(entry(id, step, total, What::Begin));
                ledger.push(entry(id, step, total, What::End));
            }
            let seen = Seen {
                total,
                view: Some(view),
                history: history.collect(),
            };
            instances.insert(id.to_owned(), seen);
        }
        // Step 3 of the first instance once more: the worker was killed before its result had left.
        ledger.push(Entry {
            at: 99,
            pid: 2,
            ..entry("a", 3, 0, What::Begin)
        });
        (instances, ledger)
    }

    fn entry(id: &str, step: u32, total: u64, what: What) -> Entry {
        Entry {
            what,
            instance: id.into(),
            step,
            total: total + u64::from(step) - 1,
            key: format!("{id}/{step}"),
            worker: "w".into(),
            pid: 1,
            at: u64::from(step) * 2 + u64::from(what == What::End),
        }
    }

    #[track_caller]
    fn rejects(expected: &str, spoil: impl FnOnce(&mut Evidence)) {
        let mut evidence = good();
        spoil(&mut evidence);
        let found = violations(&evidence.0, &evidence.1);
        assert!(
            found.iter().any(|f| f.contains(expected)),
            "{expected}: {found:?}"
        );
    }

    fn a(evidence: &mut Evidence) -> &mut Seen {
        evidence.0.get_mut("a").unwrap()
    }

    fn view(evidence: &mut Evidence) -> &mut Value {
        a(evidence).view.as_mut().unwrap()
    }

    #[test]
    fn a_run_as_it_must_be_is_accepted() {
        let (instances, ledger) = good();
        assert_eq!(violations(&instances, &ledger), Vec::<String>::new());
        assert_eq!(extra_executions(&ledger), 1);
    }

    #[test]
    fn lost_and_unfinished_instances_are_seen() {
        rejects("accepted, but lost", |e| a(e).view = None);
        rejects("not completed", |e| view(e)["status"] = "running".into());
        rejects("not completed", |e| view(e)["status"] = "faulted".into());
    }

    #[test]
    fn wrong_results_are_seen() {
        rejects("output is", |e| view(e)["output"]["total"] = 11.into());
        rejects("was given the sum", |e| e.1[4].total += 1);
    }

    #[test]
    fn results_applied_twice_never_or_out_of_order_are_seen() {
        rejects("results were applied", |e| {
            let twice = a(e).history[4].clone();
            a(e).history.insert(5, twice);
        });
        rejects("results were applied", |e| drop(a(e).history.remove(4)));
        rejects("results were applied", |e| a(e).history.swap(4, 5));
    }

    #[test]
    fn steps_that_did_not_happen_are_seen() {
        rejects("a: step 5 was never run to its end", |e| {
            e.1.retain(|x| x.place() != ("a", 5));
        });
        rejects("a: step 5 was never run to its end", |e| {
            e.1.retain(|x| x.place() != ("a", 5) || x.what == What::Begin);
        });
        rejects("step 6 began before step 5 had ended", |e| {
            let early = e.1.iter_mut().find(|x| x.place() == ("a", 6)).unwrap();
            early.at = 3;
        });
    }

    #[test]
    fn wrong_keys_are_seen() {
        rejects("run with different keys", |e| {
            e.1.last_mut().unwrap().key = "other".into()
        });
        rejects("is used by", |e| e.1.last_mut().unwrap().key = "b/7".into());
        rejects("is used by", |e| {
            for x in &mut e.1 {
                x.key = "one for all".into();
            }
        });
    }

    #[test]
    fn what_nobody_asked_for_is_seen() {
        rejects("never asked for", |e| e.1.push(entry("c", 1, 0, What::Begin)));
        rejects("never asked for", |e| {
            e.1.push(entry("a", STEPS + 1, 0, What::Begin))
        });
    }
}
