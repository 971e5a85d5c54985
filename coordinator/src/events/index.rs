//! Who may be concerned by an event, found by look-up: the listening tasks of a partition, filed by the type that they
//! ask for and by the values that the event must have in known places.
//!
//! Tasks of one definition ask for the same places with different values: one shape, one look-up, however many they are.
//! What no look-up decides (patterns, predicates on the data) is evaluated for each task that the look-up leaves.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use millrace_common::InstanceKey;
use millrace_engine::listen::{EventView, Extract};
use millrace_engine::{Interest, Plan};

/// A listening task: its instance and frame.
pub type Place = (InstanceKey, u32);

/// What is known of a listening task.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What it wants.
    pub interest: Interest,
    /// The definition that it runs.
    pub plan: Arc<Plan>,
    /// When the record that made it listen was stored: events stored from then on count. Unix ns.
    pub since_nanos: i64,
    /// Last sequence of the stream of events when it began to listen: later ones count, whatever clocks say.
    pub fence: u64,
}

/// An event with its place in the stream.
#[derive(Debug)]
pub struct Stored<'a> {
    /// The event.
    pub event: &'a EventView,
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored, Unix ns.
    pub time_nanos: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    listeners: HashMap<Place, Entry>,
    kinds: HashMap<Option<String>, HashMap<Vec<String>, Shape>>,
    evaluations: u64,
}

#[derive(Debug)]
struct Entry {
    listener: Listener,
    filed: Vec<Filed>,
}

/// Where a filter of a task is filed.
#[derive(Debug)]
struct Filed {
    kind: Option<String>,
    shape: Vec<String>,
    values: Vec<String>,
}

/// All filters that look at the same places.
#[derive(Debug)]
struct Shape {
    places: Vec<Extract>,
    by_values: HashMap<Vec<String>, BTreeSet<Place>>,
}

impl Index {
    /// Number of listening tasks.
    pub fn len(&self) -> usize {
        self.listeners.len()
    }

    /// True when nothing listens.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// A listening task.
    pub fn get(&self, place: &Place) -> Option<&Listener> {
        self.listeners.get(place).map(|entry| &entry.listener)
    }

    /// How often a filter was evaluated in full: what look-ups did not decide.
    pub const fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// Files a task, or files it anew.
    pub fn insert(&mut self, place: Place, listener: Listener) {
        self.remove(&place);
        let mut filed = Vec::new();
        for route in listener.plan.routes(&listener.interest) {
            let names: Vec<String> = route.places.iter().map(Extract::name).collect();
            let shapes = self.kinds.entry(route.kind.clone()).or_default();
            let shape = shapes.entry(names.clone()).or_insert_with(|| Shape {
                places: route.places,
                by_values: HashMap::new(),
            });
            let same = shape.by_values.entry(route.values.clone()).or_default();
            same.insert(place.clone());
            filed.push(Filed {
                kind: route.kind,
                shape: names,
                values: route.values,
            });
        }
        self.listeners.insert(place, Entry { listener, filed });
    }

    /// Forgets a task.
    pub fn remove(&mut self, place: &Place) {
        let Some(entry) = self.listeners.remove(place) else {
            return;
        };
        for filed in entry.filed {
            self.take_out(place, &filed);
        }
    }

    fn take_out(&mut self, place: &Place, filed: &Filed) {
        let Some(shapes) = self.kinds.get_mut(&filed.kind) else {
            return;
        };
        let Some(shape) = shapes.get_mut(&filed.shape) else {
            return;
        };
        if let Some(same) = shape.by_values.get_mut(&filed.values) {
            same.remove(place);
            if same.is_empty() {
                shape.by_values.remove(&filed.values);
            }
        }
        if shape.by_values.is_empty() {
            shapes.remove(&filed.shape);
        }
        if shapes.is_empty() {
            self.kinds.remove(&filed.kind);
        }
    }

    /// The tasks that an event concerns, in a fixed order.
    pub fn concerned(&mut self, stored: &Stored<'_>) -> BTreeSet<Place> {
        let mut found = BTreeSet::new();
        let mut evaluations = 0;
        for shape in self.shapes(stored.event.kind()) {
            let values: Option<Vec<String>> = shape.places.iter().map(|p| p.value(stored.event)).collect();
            let Some(same) = values.and_then(|v| shape.by_values.get(&v)) else {
                continue;
            };
            for place in same {
                if found.contains(place) {
                    continue;
                }
                let Some(entry) = self.listeners.get(place) else {
                    continue;
                };
                if !entry.listener.counts(stored) {
                    continue;
                }
                evaluations += 1;
                if entry
                    .listener
                    .plan
                    .concerns(&entry.listener.interest, stored.event)
                {
                    found.insert(place.clone());
                }
            }
        }
        self.evaluations += evaluations;
        found
    }

    fn shapes(&self, kind: &str) -> impl Iterator<Item = &Shape> {
        let of_kind = self.kinds.get(&Some(kind.to_owned()));
        let of_any = self.kinds.get(&None);
        of_kind.into_iter().chain(of_any).flat_map(HashMap::values)
    }
}

impl Listener {
    /// True for events stored after the task began to listen.
    const fn counts(&self, stored: &Stored<'_>) -> bool {
        stored.sequence > self.fence || stored.time_nanos >= self.since_nanos
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use millrace_common::{InstanceKey, Record, RecordBody, Start};
    use millrace_engine::{Definitions, Effect};

    use super::*;

    struct One(Arc<Plan>);

    impl Definitions for One {
        fn plan(&self, _: &millrace_common::DefinitionRef) -> Option<Arc<Plan>> {
            Some(self.0.clone())
        }

        fn latest(&self, _: &str, _: &str) -> Option<String> {
            None
        }
    }

    fn definition(to: &str) -> One {
        let text = format!(
            "document: {{dsl: '1.0.3', namespace: default, name: l, version: '1.0.0'}}\ndo: [{{l: {{listen: {{to: {to}}}}}}}]"
        );
        One(Arc::new(Plan::new(millrace_dsl::parse(&text).unwrap().document)))
    }

    /// What the engine makes of a start with this input.
    fn listener(definition: &One, id: &str, input: &str) -> (Place, Listener) {
        let key: InstanceKey = format!("default/{id}").parse().unwrap();
        let start = Start {
            definition: "default/l@1.0.0".parse().unwrap(),
            input: millrace_common::RawJson::parse(input.as_bytes()).unwrap(),
            labels: std::collections::BTreeMap::new(),
            parent: None,
            traceparent: None,
            reply: None,
        };
        let record = Record {
            sequence: 1,
            time_ms: 0,
            instance: Some(key.clone()),
            body: RecordBody::Start(Box::new(start)),
        };
        let mut instance = None;
        let effects = millrace_engine::apply(definition, &mut instance, &record).effects;
        let interest = effects.into_iter().find_map(|effect| match effect {
            Effect::Listen { frame, interest, .. } => Some((frame, *interest)),
            _ => None,
        });
        let (frame, interest) = interest.expect("it listens");
        let listener = Listener {
            interest,
            plan: definition.0.clone(),
            since_nanos: 100,
            fence: 5,
        };
        ((key, frame), listener)
    }

    fn event(kind: &str, data: &str) -> EventView {
        let json = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"{kind}","data":{data}}}"#);
        EventView::new(&millrace_common::RawJson::parse(json.as_bytes()).unwrap(), 0).unwrap()
    }

    fn concerned(index: &mut Index, event: &EventView, sequence: u64, time_nanos: i64) -> Vec<String> {
        let stored = Stored {
            event,
            sequence,
            time_nanos,
        };
        index
            .concerned(&stored)
            .iter()
            .map(|(k, _)| k.id().to_owned())
            .collect()
    }

    #[test]
    fn events_before_the_fence_do_not_count() {
        let d = definition("{one: {with: {type: t}}}");
        let mut index = Index::default();
        let (place, listener) = listener(&d, "a", "{}");
        index.insert(place, listener);
        let e = event("t", "{}");
        assert!(concerned(&mut index, &e, 5, 99).is_empty());
        assert_eq!(concerned(&mut index, &e, 6, 99), ["a"], "later in the stream");
        assert_eq!(concerned(&mut index, &e, 5, 100), ["a"], "after the record");
    }

    #[test]
    fn tasks_are_found_by_type_and_key_and_forgotten() {
        let key = "{one: {with: {type: t}, correlate: {order: {from: .data.order, expect: '${ .order }'}}}}";
        let (d, any) = (definition(key), definition("{any: []}"));
        let pattern = definition("{one: {with: {type: 't|u'}}}");
        let mut index = Index::default();
        let mut places = Vec::new();
        for (d, id, input) in [
            (&d, "a", r#"{"order": 1}"#),
            (&d, "b", r#"{"order": 2}"#),
            (&any, "any", "{}"),
            (&pattern, "pattern", "{}"),
        ] {
            let (place, listener) = listener(d, id, input);
            places.push(place.clone());
            index.insert(place, listener);
        }
        assert_eq!(
            concerned(&mut index, &event("t", r#"{"order": 2}"#), 9, 0),
            ["any", "b", "pattern"]
        );
        assert_eq!(
            concerned(&mut index, &event("t", r#"{"order": "1"}"#), 9, 0),
            ["a", "any", "pattern"]
        );
        assert_eq!(
            concerned(&mut index, &event("u", r#"{"order": 1}"#), 9, 0),
            ["any", "pattern"]
        );
        assert_eq!(concerned(&mut index, &event("x", "null"), 9, 0), ["any"]);
        places.iter().for_each(|p| index.remove(p));
        assert!(index.is_empty() && index.kinds.is_empty());
    }

    #[test]
    fn costs_do_not_grow_with_the_number_of_waiting_tasks() {
        let d = definition(
            "{one: {with: {type: t}, correlate: {order: {from: .data.order, expect: '${ .order }'}}}}",
        );
        let mut index = Index::default();
        let fill = |index: &mut Index, range: std::ops::Range<u32>| {
            for n in range {
                let (place, listener) = listener(&d, &format!("i{n}"), &format!(r#"{{"order": {n}}}"#));
                index.insert(place, listener);
            }
        };
        let measure = |index: &mut Index| {
            let before = index.evaluations();
            let took: Vec<Duration> = (0..200)
                .map(|n| {
                    let e = event("t", &format!(r#"{{"order": {n}}}"#));
                    let begun = Instant::now();
                    assert_eq!(concerned(index, &e, 9, 0), [format!("i{n}")]);
                    begun.elapsed()
                })
                .collect();
            (
                index.evaluations() - before,
                took.iter().min().copied().unwrap_or_default(),
            )
        };
        fill(&mut index, 0..200);
        let few = measure(&mut index);
        fill(&mut index, 200..20_000);
        let many = measure(&mut index);
        assert_eq!(
            (few.0, many.0),
            (200, 200),
            "one evaluation an event, however many wait"
        );
        // Far above what noise can do to a minimum, far below a hundred times.
        assert!(
            many.1 < few.1 * 10 + Duration::from_micros(200),
            "{few:?} {many:?}"
        );
    }
}
