//! A definition made ready to run: every task of every list flattened into nodes with small stable ids.
//!
//! Node 0 is the workflow itself. Stored instances name nodes by number, so the numbering may never change for a
//! given definition: lists are numbered as wholes, in document order, then what is inside their tasks, depth first.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_common::DefinitionRef;
use millrace_dsl::expression::Expression;
use millrace_dsl::model::{
    Call, Case, DataIn, DataOut, Document, DurationValue, ErrorFilter, ErrorTemplate, Extension, Flow,
    FunctionTarget, HttpCall, Process, Retry, Run, Settings, Task, TaskKind, TaskList, Timeout,
};
use millrace_dsl::template::Template;
use millrace_dsl::{Value, secret, value};

use crate::listen::ListenNode;

/// Where `apply` finds definitions. The shell answers from a cache that it filled before.
pub trait Definitions {
    /// The plan of an exact version; `None` faults the start with a configuration error.
    fn plan(&self, definition: &DefinitionRef) -> Option<Arc<Plan>>;

    /// The newest version of a definition, for a `run: workflow` that asks for `latest`. `None` faults the task with a
    /// configuration error. The answer is recorded in the instance, so a later deploy does not change it.
    fn latest(&self, namespace: &str, name: &str) -> Option<String>;
}

/// See the module.
#[derive(Debug)]
pub struct Plan {
    /// The tree.
    pub document: Arc<Document>,
    /// `namespace/name@version`.
    definition: String,
    /// The first one is the workflow.
    nodes: Vec<Node>,
    /// In declared order.
    extensions: Vec<ExtensionNode>,
}

/// Number of a node.
pub(crate) type NodeId = u32;

/// The workflow itself.
pub(crate) const ROOT: NodeId = 0;

/// The nodes of one list: they are neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) first: NodeId,
    pub(crate) len: u32,
}

/// One task with what every task has.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) pointer: Arc<str>,
    pub(crate) condition: Option<Expression>,
    pub(crate) input: DataIn,
    pub(crate) output: DataOut,
    pub(crate) export: DataOut,
    pub(crate) timeout: Option<Timeout>,
    pub(crate) then: Option<Flow>,
    /// Its own; see [`crate::settings`].
    pub(crate) settings: Settings,
    /// The function that undoes it.
    pub(crate) compensate: Option<NodeId>,
    pub(crate) action: Action,
    /// Extensions of tasks of this kind, in declared order.
    pub(crate) extensions: Vec<u32>,
    pub(crate) source: Value,
}

/// What a task does.
#[derive(Debug)]
pub(crate) enum Action {
    Do(List),
    Set(Template),
    Switch(Vec<Case>),
    For(Box<ForNode>),
    Fork {
        branches: List,
        compete: bool,
    },
    Try(Box<TryNode>),
    Raise(Box<ErrorTemplate>),
    Emit(Template),
    Wait(DurationValue),
    Child(Box<ChildNode>),
    Listen(Box<ListenNode>),
    Http(Box<HttpCall>),
    Fleet {
        function: Arc<str>,
        arguments: Option<Template>,
    },
    Inline {
        function: NodeId,
        arguments: Option<Template>,
    },
    /// A call or process of the language that a worker carries out: the function, and its input.
    Builtin {
        function: &'static str,
        with: Template,
    },
    /// A process that nobody waits for.
    Detached {
        function: &'static str,
        with: Template,
    },
    Unsupported(String),
}

#[derive(Debug)]
pub(crate) struct ForNode {
    pub(crate) each: String,
    pub(crate) at: String,
    pub(crate) items: Template,
    pub(crate) condition: Option<Expression>,
    /// Iterations at a time.
    pub(crate) parallel: Option<u32>,
    pub(crate) body: List,
}

#[derive(Debug)]
pub(crate) struct TryNode {
    pub(crate) body: List,
    pub(crate) filter: ErrorFilter,
    pub(crate) variable: String,
    pub(crate) when: Option<Expression>,
    pub(crate) except_when: Option<Expression>,
    pub(crate) retry: Option<Retry>,
    pub(crate) handler: Option<List>,
    pub(crate) then: Option<Flow>,
}

#[derive(Debug)]
pub(crate) struct ExtensionNode {
    pub(crate) when: Option<Expression>,
    pub(crate) before: List,
    pub(crate) after: List,
}

#[derive(Debug)]
pub(crate) struct ChildNode {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) input: Option<Template>,
    pub(crate) awaited: bool,
}

impl Plan {
    /// Flattens a document. Ids follow document order, so that they are the same in every process and build.
    pub fn new(document: Arc<Document>) -> Self {
        let mut builder = Builder::default();
        builder.nodes.push(root(&document));
        builder.extend = document
            .uses
            .extensions
            .iter()
            .map(|e| e.extend.clone())
            .collect();
        let tasks = builder.list(&document.tasks.tasks);
        builder.set(ROOT, Action::Do(tasks));
        let extensions = document
            .uses
            .extensions
            .iter()
            .map(|e| builder.extension(e))
            .collect();
        let definition = format!("{}/{}@{}", document.namespace, document.name, document.version);
        Self {
            definition,
            nodes: builder.nodes,
            extensions,
            document,
        }
    }

    /// `namespace/name@version`.
    pub fn definition(&self) -> &str {
        &self.definition
    }

    /// Number of tasks, all levels.
    pub fn len(&self) -> usize {
        self.nodes.len() - 1
    }

    /// True for a definition whose `do` is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The workflow itself.
    pub(crate) fn root(&self) -> &Node {
        &self.nodes[0]
    }

    /// `None` for a number that no node of this plan has: the state belongs to another definition.
    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    pub(crate) fn extension(&self, number: u32) -> Option<&ExtensionNode> {
        self.extensions.get(number as usize)
    }
}

/// The workflow as a task: its list, its timeout. Its input and output have their own rules (`activate::workflow`).
fn root(document: &Document) -> Node {
    Node {
        name: document.name.clone(),
        pointer: "/".into(),
        condition: None,
        input: document.input.clone(),
        output: document.output.clone(),
        export: DataOut::default(),
        timeout: document.timeout.clone(),
        then: None,
        settings: document.settings.clone(),
        compensate: None,
        action: Action::Do(List::default()),
        extensions: Vec::new(),
        source: secret::redacted(&document.source),
    }
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    functions: BTreeMap<String, NodeId>,
    /// Kind of task that each extension extends.
    extend: Vec<String>,
}

impl Builder {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a definition has at most DEFINITION_TASKS_MAX tasks"
    )]
    fn list(&mut self, tasks: &[Task]) -> List {
        let list = List {
            first: self.nodes.len() as NodeId,
            len: tasks.len() as u32,
        };
        self.nodes.extend(tasks.iter().map(shell));
        for (id, task) in (list.first..).zip(tasks) {
            let action = self.action(task);
            self.set(id, action);
            let (extensions, compensate) = (self.extensions_of(&task.kind), self.compensation(task));
            if let Some(node) = self.nodes.get_mut(id as usize) {
                (node.extensions, node.compensate) = (extensions, compensate);
            }
        }
        list
    }

    /// What undoes a task: named by itself, or by the function it calls.
    fn compensation(&mut self, task: &Task) -> Option<NodeId> {
        let called = match &task.kind {
            TaskKind::Call(call) => match &**call {
                Call::Function(call) => match &call.target {
                    FunctionTarget::Inline(function) => function.settings.compensate_with.as_ref(),
                    FunctionTarget::Fleet(_) | FunctionTarget::Missing(_) => None,
                },
                _ => None,
            },
            _ => None,
        };
        let function = task.settings.compensate_with.as_ref().or(called)?;
        Some(self.function(function))
    }

    fn extension(&mut self, extension: &Extension) -> ExtensionNode {
        ExtensionNode {
            when: extension.when.clone(),
            before: self.optional(extension.before.as_ref()).unwrap_or_default(),
            after: self.optional(extension.after.as_ref()).unwrap_or_default(),
        }
    }

    /// Numbers of the extensions of a kind of task. Those of tasks inside extensions never apply; but a function that
    /// such a task calls has its node in common with other calls, so that is found out when it runs.
    fn extensions_of(&self, kind: &TaskKind) -> Vec<u32> {
        let composite = matches!(kind, TaskKind::Do(_) | TaskKind::Fork(_));
        let fits = |extend: &str| {
            extend == "all" || extend == kind.keyword() || (extend == "composite" && composite)
        };
        let numbered = (0..).zip(&self.extend);
        numbered.filter(|(_, e)| fits(e)).map(|(n, _)| n).collect()
    }

    fn set(&mut self, id: NodeId, action: Action) {
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.action = action;
        }
    }

    fn optional(&mut self, list: Option<&TaskList>) -> Option<List> {
        list.map(|l| self.list(&l.tasks))
    }

    fn action(&mut self, task: &Task) -> Action {
        match &task.kind {
            TaskKind::Do(list) => Action::Do(self.list(&list.tasks)),
            TaskKind::Set(value) => Action::Set(value.clone()),
            TaskKind::Switch(cases) => Action::Switch(cases.clone()),
            TaskKind::For(f) => Action::For(Box::new(ForNode {
                each: f.each.clone(),
                at: f.at.clone(),
                items: f.items.clone(),
                condition: f.condition.clone(),
                parallel: task.settings.parallel,
                body: self.list(&f.body.tasks),
            })),
            TaskKind::Fork(fork) => Action::Fork {
                branches: self.list(&fork.branches),
                compete: fork.compete,
            },
            TaskKind::Try(t) => Action::Try(Box::new(TryNode {
                body: self.list(&t.body.tasks),
                filter: t.catch.filter.clone(),
                variable: t.catch.variable.clone(),
                when: t.catch.when.clone(),
                except_when: t.catch.except_when.clone(),
                retry: t.catch.retry.clone(),
                handler: self.optional(t.catch.handler.as_ref()),
                then: t.catch.then,
            })),
            TaskKind::Raise(error) => Action::Raise(Box::new(error.clone())),
            TaskKind::Emit(emit) => Action::Emit(emit.with.clone()),
            TaskKind::Listen(listen) => {
                let body = listen.foreach.as_ref().and_then(|f| f.body.as_ref());
                let body = self.optional(body).unwrap_or_default();
                Action::Listen(Box::new(ListenNode::new(listen, body)))
            }
            TaskKind::Wait(duration) => Action::Wait(duration.clone()),
            TaskKind::Run(run) => process(run),
            TaskKind::Call(call) => self.call(call),
        }
    }

    fn call(&mut self, call: &Call) -> Action {
        let builtin = |function, with: &Template| Action::Builtin {
            function,
            with: with.clone(),
        };
        match call {
            Call::Http(http) => Action::Http(Box::new(http.clone())),
            Call::OpenApi(with) => builtin("call:openapi", with),
            Call::Grpc(with) => builtin("call:grpc", with),
            Call::AsyncApi(call) => builtin("call:asyncapi", &call.with),
            Call::Mcp(with) => builtin("call:mcp", with),
            Call::A2a(with) => builtin("call:a2a", with),
            Call::Function(call) => {
                let arguments = call.arguments.clone();
                match &call.target {
                    FunctionTarget::Fleet(function) => Action::Fleet {
                        function: function.as_str().into(),
                        arguments,
                    },
                    FunctionTarget::Inline(task) => Action::Inline {
                        function: self.function(task),
                        arguments,
                    },
                    FunctionTarget::Missing(url) => {
                        Action::Unsupported(format!("a function that was not fetched (`{url}`)"))
                    }
                }
            }
        }
    }

    /// The node of a function of `use.functions`: one for all its calls.
    fn function(&mut self, task: &Task) -> NodeId {
        if let Some(id) = self.functions.get(&task.pointer) {
            return *id;
        }
        let id = self.list(std::slice::from_ref(task)).first;
        // Calls of it are undone, not it as well.
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.compensate = None;
        }
        self.functions.insert(task.pointer.clone(), id);
        id
    }
}

fn process(run: &Run) -> Action {
    let builtin = |function, process: &Template| {
        let with = Template::object(vec![
            ("process".to_owned(), process.clone()),
            ("await".to_owned(), Template::Literal(Value::Bool(run.awaited))),
            (
                "return".to_owned(),
                Template::Literal(value::string(run.output.as_str())),
            ),
        ]);
        match run.awaited {
            true => Action::Builtin { function, with },
            false => Action::Detached { function, with },
        }
    };
    match &run.process {
        Process::Container(process) => builtin("run:container", process),
        Process::Script(process) => builtin("run:script", process),
        Process::Shell(process) => builtin("run:shell", process),
        Process::Workflow {
            namespace,
            name,
            version,
            input,
        } => Action::Child(Box::new(ChildNode {
            namespace: namespace.clone(),
            name: name.clone(),
            version: version.clone(),
            input: input.clone(),
            awaited: run.awaited,
        })),
    }
}

/// A node without its action yet.
fn shell(task: &Task) -> Node {
    Node {
        name: task.name.clone(),
        pointer: task.pointer.as_str().into(),
        condition: task.condition.clone(),
        input: task.input.clone(),
        output: task.output.clone(),
        export: task.export.clone(),
        timeout: task.timeout.clone(),
        then: task.then,
        settings: task.settings.clone(),
        compensate: None,
        action: Action::Do(List::default()),
        extensions: Vec::new(),
        source: secret::redacted(&task.source),
    }
}
