//! The typed tree of a definition: the whole language, one type a construct.
//!
//! Every task and every reference knows its JSON Pointer (as the specification wants it in `task.reference` and
//! `error.instance`) and its place in the source. Names that refer to `use.*` are resolved at parse time where the
//! type says so; a tree that exists has passed every deploy-time check.

use std::fmt;
use std::sync::Arc;

use millrace_common::{CatchUp, Overlap, RawJson};

use crate::duration::Duration;
use crate::expression::Expression;
use crate::schema::Schema;
use crate::template::Template;
use crate::{Span, Value};

/// A definition.
#[derive(Clone, Debug)]
pub struct Document {
    /// `document.dsl`.
    pub dsl: String,
    /// `document.namespace`.
    pub namespace: String,
    /// `document.name`.
    pub name: String,
    /// `document.version`, a semantic version.
    pub version: String,
    /// `document.title`.
    pub title: Option<String>,
    /// `document.summary`.
    pub summary: Option<String>,
    /// Workflow input: schema on the raw input, then `from`.
    pub input: DataIn,
    /// Workflow output: `as`, then schema.
    pub output: DataOut,
    /// `use`.
    pub uses: Uses,
    /// `do`.
    pub tasks: TaskList,
    /// `timeout` of the workflow.
    pub timeout: Option<Timeout>,
    /// `schedule`.
    pub schedule: Option<Schedule>,
    /// `evaluate.mode` is `loose`.
    pub loose: bool,
    /// `document.metadata.millrace`.
    pub settings: Settings,
    /// What it uses of the language that a build may not execute yet, with places.
    pub constructs: Vec<Construct>,
    /// Every function of the fleet that it calls, with places: whether a worker offers it is known only where it runs.
    pub functions: Vec<FunctionUse>,
    /// What other runtimes would ignore or not know, and what they do then.
    pub extras: Vec<Extra>,
    /// The whole document as data: `$workflow.definition`, and what the registry compares.
    pub source: Value,
}

/// An ordered list of named tasks: one scope for `then`.
#[derive(Clone, Debug, Default)]
pub struct TaskList {
    /// JSON Pointer of the list: `/do`, `/do/0/x/try`, …
    pub pointer: String,
    /// The tasks.
    pub tasks: Vec<Task>,
}

/// One task with what every task has.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name in the list.
    pub name: String,
    /// JSON Pointer: `/do/0/name`.
    pub pointer: String,
    /// Where its name stands.
    pub span: Span,
    /// `if`.
    pub condition: Option<Expression>,
    /// `input`.
    pub input: DataIn,
    /// `output`.
    pub output: DataOut,
    /// `export`: `as` replaces `$context`.
    pub export: DataOut,
    /// `timeout`.
    pub timeout: Option<Timeout>,
    /// `then`; absent means continue.
    pub then: Option<Flow>,
    /// `metadata.millrace`.
    pub settings: Settings,
    /// What it does.
    pub kind: TaskKind,
    /// The task as data: `$task.definition`.
    pub source: Value,
}

/// `input`: schema on the raw value, then `from`.
#[derive(Clone, Debug, Default)]
pub struct DataIn {
    /// `schema`.
    pub schema: Option<Arc<Schema>>,
    /// `from`.
    pub from: Option<Template>,
}

/// `output` and `export`: `as`, then schema on its result.
#[derive(Clone, Debug, Default)]
pub struct DataOut {
    /// `schema`.
    pub schema: Option<Arc<Schema>>,
    /// `as`.
    pub transform: Option<Template>,
}

/// `timeout`, inline or resolved from `use.timeouts`.
#[derive(Clone, Debug)]
pub struct Timeout {
    /// `after`.
    pub after: DurationValue,
}

/// A duration known at deploy time, or computed.
#[derive(Clone, Debug)]
pub enum DurationValue {
    /// Known.
    Fixed(Duration),
    /// An expression that yields an ISO 8601 text (or a duration object).
    Computed(Expression),
}

/// A flow directive. A name is resolved to the index of the sibling in the same list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Next sibling.
    Continue,
    /// Leave the list.
    Exit,
    /// End the workflow.
    End,
    /// Go to the sibling with this index.
    Task(usize),
}

/// What we add to the language, under `metadata.millrace`. All optional; an unknown key is a deploy error.
/// Those of steps count in this order: of the task (of calls of `use.functions`: the outermost call first), of the
/// entry in `use.functions`, of the document.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Queue of the task's steps (a label: `[a-z0-9-]`, at most 63).
    pub queue: Option<String>,
    /// Gives the idempotency key of the task's step, in place of the one that the engine makes.
    pub idempotency_key: Option<Expression>,
    /// Longest time from the dispatch of a step until a worker begins with it.
    pub schedule_to_start: Option<Duration>,
    /// Longest time between two signs of life that the handler of a step gives.
    pub heartbeat: Option<Duration>,
    /// Deliveries of a step before it fails.
    pub max_deliveries: Option<u32>,
    /// Types of errors of the task that no `try` retries.
    pub non_retryable: Option<Vec<String>>,
    /// A `for` runs this many iterations at a time.
    pub parallel: Option<u32>,
    /// The function of `use.functions` that undoes the task.
    pub compensate_with: Option<Arc<Task>>,
    /// Completed tasks with [`Self::compensate_with`] are undone when this `try`, or the workflow, fails.
    pub saga: bool,
}

/// A use of something that only this engine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// What, as it is written in a definition.
    pub what: String,
    /// What other runtimes do instead.
    pub elsewhere: &'static str,
    /// JSON Pointer of the place.
    pub pointer: String,
    /// The place.
    pub span: Span,
}

/// The twelve kinds of task.
#[derive(Clone, Debug)]
pub enum TaskKind {
    /// `do`.
    Do(TaskList),
    /// `set`: its value replaces the data.
    Set(Template),
    /// `switch`.
    Switch(Vec<Case>),
    /// `for`.
    For(For),
    /// `fork`.
    Fork(Fork),
    /// `try`.
    Try(Box<Try>),
    /// `raise`.
    Raise(ErrorTemplate),
    /// `emit`.
    Emit(Emit),
    /// `listen`.
    Listen(Box<Listen>),
    /// `wait`.
    Wait(DurationValue),
    /// `run`.
    Run(Box<Run>),
    /// `call`.
    Call(Box<Call>),
}

impl TaskKind {
    /// The keyword.
    pub const fn keyword(&self) -> &'static str {
        match self {
            Self::Do(_) => "do",
            Self::Set(_) => "set",
            Self::Switch(_) => "switch",
            Self::For(_) => "for",
            Self::Fork(_) => "fork",
            Self::Try(_) => "try",
            Self::Raise(_) => "raise",
            Self::Emit(_) => "emit",
            Self::Listen(_) => "listen",
            Self::Wait(_) => "wait",
            Self::Run(_) => "run",
            Self::Call(_) => "call",
        }
    }
}

/// A case of `switch`. Without `when` it is the default, wherever it stands.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// `when`.
    pub when: Option<Expression>,
    /// `then`.
    pub then: Flow,
}

/// `for`: sequential; each iteration's output is the next one's input.
#[derive(Clone, Debug)]
pub struct For {
    /// Name of the item variable, `item` unless given.
    pub each: String,
    /// Name of the index variable, `index` unless given.
    pub at: String,
    /// The collection: an expression, or an inline array (a template).
    pub items: Template,
    /// Checked before each iteration.
    pub condition: Option<Expression>,
    /// The body.
    pub body: TaskList,
}

/// `fork`: every branch gets the fork's input.
#[derive(Clone, Debug)]
pub struct Fork {
    /// The branches: each a task. Not a scope for `then` by name.
    pub branches: Vec<Task>,
    /// First to complete wins.
    pub compete: bool,
}

/// `try`.
#[derive(Clone, Debug)]
pub struct Try {
    /// What is tried.
    pub body: TaskList,
    /// `catch`.
    pub catch: Catch,
}

/// `catch`.
#[derive(Clone, Debug)]
pub struct Catch {
    /// `errors.with`: all given members must be equal.
    pub filter: ErrorFilter,
    /// Name of the error variable, `error` unless given.
    pub variable: String,
    /// `when`.
    pub when: Option<Expression>,
    /// `exceptWhen`.
    pub except_when: Option<Expression>,
    /// `retry`, inline or resolved from `use.retries`.
    pub retry: Option<Retry>,
    /// `do`.
    pub handler: Option<TaskList>,
    /// `then` (main branch of the specification).
    pub then: Option<Flow>,
}

/// `errors.with`. Standard error types compare by short name (see `ErrorKind::from_uri`).
#[derive(Clone, Debug, Default)]
pub struct ErrorFilter {
    /// `type`.
    pub kind: Option<String>,
    /// `status`.
    pub status: Option<u16>,
    /// `instance`.
    pub instance: Option<String>,
    /// `title`.
    pub title: Option<String>,
    /// `detail` (`details` is accepted too).
    pub detail: Option<String>,
}

/// A retry policy.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// `when`.
    pub when: Option<Expression>,
    /// `exceptWhen`.
    pub except_when: Option<Expression>,
    /// `delay`.
    pub delay: Option<DurationValue>,
    /// `backoff`.
    pub backoff: Backoff,
    /// `jitter`: a uniform extra between the two.
    pub jitter: Option<(DurationValue, DurationValue)>,
    /// `limit.attempt.count`: retries, so executions are one more.
    pub count: Option<u32>,
    /// `limit.attempt.duration`: timeout of one attempt.
    pub attempt_timeout: Option<DurationValue>,
    /// `limit.duration`: total budget from the first start.
    pub total: Option<DurationValue>,
}

/// `backoff`.
#[derive(Clone, Debug, Default)]
pub enum Backoff {
    /// The same delay each time.
    #[default]
    Constant,
    /// `delay · n`.
    Linear,
    /// `delay · factor^(n-1)`, at most `max_delay`.
    Exponential {
        /// 2 unless given.
        factor: f64,
        /// Cap.
        max_delay: Option<Duration>,
    },
}

/// `raise.error`, inline or resolved from `use.errors`.
#[derive(Clone, Debug)]
pub struct ErrorTemplate {
    /// `type`.
    pub kind: Template,
    /// `status`.
    pub status: u16,
    /// `title`.
    pub title: Option<Template>,
    /// `detail`.
    pub detail: Option<Template>,
    /// `instance`.
    pub instance: Option<Template>,
}

/// `call`.
#[derive(Clone, Debug)]
pub enum Call {
    /// `call: http`.
    Http(HttpCall),
    /// `call: openapi`; `with` as a template (checked for its keys).
    OpenApi(Template),
    /// `call: grpc`.
    Grpc(Template),
    /// `call: asyncapi`.
    AsyncApi(AsyncApiCall),
    /// `call: mcp`.
    Mcp(Template),
    /// `call: a2a`.
    A2a(Template),
    /// A function.
    Function(FunctionCall),
}

/// `call: asyncapi`.
#[derive(Clone, Debug)]
pub struct AsyncApiCall {
    /// `with`, without `subscription.foreach`.
    pub with: Template,
    /// `subscription.foreach`.
    pub foreach: Option<ListenForeach>,
}

/// `call: http`.
#[derive(Clone, Debug)]
pub struct HttpCall {
    /// `method`, upper case when literal.
    pub method: Template,
    /// `endpoint`.
    pub endpoint: Endpoint,
    /// `headers`: an object of texts, or one expression.
    pub headers: Option<Template>,
    /// `query`.
    pub query: Option<Template>,
    /// `body`.
    pub body: Option<Template>,
    /// `output`.
    pub output: HttpOutput,
    /// `redirect`.
    pub redirect: bool,
}

/// Form of an HTTP call's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpOutput {
    /// Base64 of the body.
    Raw,
    /// The decoded body.
    #[default]
    Content,
    /// `{request, statusCode, headers, content}`.
    Response,
}

/// A URI (template, or expression) with authentication.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The address.
    pub uri: UriValue,
    /// How to authenticate, resolved from `use.authentications` when by name.
    pub authentication: Option<Authentication>,
}

/// A URI.
#[derive(Clone, Debug)]
pub enum UriValue {
    /// RFC 6570 simple expansion over the task's input.
    Template(crate::uri::UriTemplate),
    /// An expression that yields a text.
    Computed(Expression),
}

/// Authentication of a call.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// `basic` with credentials.
    Basic {
        /// User name.
        username: Template,
        /// Password.
        password: Template,
    },
    /// `bearer`.
    Bearer {
        /// The token.
        token: Template,
    },
    /// `digest`.
    Digest {
        /// User name.
        username: Template,
        /// Password.
        password: Template,
    },
    /// `oauth2`: the policy as a template.
    OAuth2(Template),
    /// `oidc`: the policy as a template.
    Oidc(Template),
    /// Any scheme with `use: <secret>`.
    Secret {
        /// Scheme: basic, bearer, …
        scheme: String,
        /// Name of the secret.
        secret: String,
    },
}

/// A call of a function.
#[derive(Clone, Debug)]
pub struct FunctionCall {
    /// Which.
    pub target: FunctionTarget,
    /// `with`: the function's raw input.
    pub arguments: Option<Template>,
}

/// What a function name resolved to.
#[derive(Clone, Debug)]
pub enum FunctionTarget {
    /// `name:semver@default`: a function of the fleet, as `name:semver`.
    Fleet(String),
    /// `use.functions.<name>`: run that task (pointer `/use/functions/<name>`) with the arguments as raw input.
    Inline(Arc<Task>),
    /// A `function.yaml` at this address, by URL or of a catalog, that was not given to the parser. Given, it is
    /// [`Self::Inline`] with the pointer `/use/functions/<what the call says>`.
    Missing(String),
}

/// `run`.
#[derive(Clone, Debug)]
pub struct Run {
    /// What.
    pub process: Process,
    /// `await`, true unless given.
    pub awaited: bool,
    /// `return`.
    pub output: ProcessOutput,
}

/// What `run` runs.
#[derive(Clone, Debug)]
pub enum Process {
    /// `container`, as a template with checked keys.
    Container(Template),
    /// `script`.
    Script(Template),
    /// `shell`.
    Shell(Template),
    /// `workflow`.
    Workflow {
        /// Namespace of the child's definition.
        namespace: String,
        /// Name.
        name: String,
        /// Version, or `latest`.
        version: String,
        /// Raw input of the child.
        input: Option<Template>,
    },
}

/// `run.return`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessOutput {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// Exit code.
    Code,
    /// All three.
    All,
    /// Nothing.
    None,
}

impl ProcessOutput {
    /// As it is written in a definition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Code => "code",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// `emit`.
#[derive(Clone, Debug)]
pub struct Emit {
    /// `event.with`.
    pub with: Template,
}

/// `listen`.
#[derive(Clone, Debug)]
pub struct Listen {
    /// `to`.
    pub to: Consumption,
    /// `read`.
    pub read: EventRead,
    /// `foreach`.
    pub foreach: Option<ListenForeach>,
}

/// An event consumption strategy.
#[derive(Clone, Debug)]
pub enum Consumption {
    /// All of them, each once.
    All(Vec<EventFilter>),
    /// Any; an empty list matches every event.
    Any {
        /// The filters.
        filters: Vec<EventFilter>,
        /// Until.
        until: Option<Until>,
    },
    /// One.
    One(EventFilter),
}

/// When `any` stops.
#[derive(Clone, Debug)]
pub enum Until {
    /// After each event; `.` is the array so far.
    Condition(Expression),
    /// When this strategy is satisfied.
    Consumed(Box<Consumption>),
}

/// Which part of an event is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventRead {
    /// Its data.
    #[default]
    Data,
    /// The whole event.
    Envelope,
    /// As it came.
    Raw,
}

/// An event filter.
#[derive(Clone, Debug)]
pub struct EventFilter {
    /// Attribute -> expected value (text: equality or anchored regular expression; expression: predicate).
    pub with: Vec<(String, Template)>,
    /// Correlations.
    pub correlate: Vec<Correlation>,
}

/// A correlation.
#[derive(Clone, Debug)]
pub struct Correlation {
    /// Its name.
    pub name: String,
    /// Extracts the key from the event.
    pub from: Expression,
    /// What it must be; absent: the first one fixes it.
    pub expect: Option<Template>,
}

/// `listen.foreach`.
#[derive(Clone, Debug)]
pub struct ListenForeach {
    /// Item variable.
    pub item: String,
    /// Index variable.
    pub at: String,
    /// Body.
    pub body: Option<TaskList>,
    /// `output`.
    pub output: DataOut,
    /// `export`.
    pub export: DataOut,
}

/// `schedule`.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// `every`.
    pub every: Option<DurationValue>,
    /// `cron`.
    pub cron: Option<String>,
    /// `after`.
    pub after: Option<DurationValue>,
    /// `on`.
    pub on: Option<Consumption>,
    /// `read`.
    pub read: Option<EventRead>,
    /// `document.metadata.millrace.schedule`.
    pub settings: ScheduleSettings,
}

/// What we add to `schedule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// Zone of `cron`; else UTC.
    pub timezone: Option<String>,
    /// What happens while an earlier run goes on.
    pub overlap: Overlap,
    /// What happens to due times that passed unseen.
    pub catch_up: CatchUp,
    /// Bound of `catchUp: all`.
    pub catch_up_max: Option<u32>,
    /// Input of the runs; else `{}`.
    pub input: Option<RawJson>,
}

/// `use`, what is not resolved at its references.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// Extensions in declared order.
    pub extensions: Vec<Extension>,
    /// Secret names.
    pub secrets: Vec<String>,
    /// Catalog name -> endpoint.
    pub catalogs: Vec<(String, Endpoint)>,
}

/// `use.extensions`.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Kind of task it extends, or `all`, `composite`.
    pub extend: String,
    /// `when`.
    pub when: Option<Expression>,
    /// `before`.
    pub before: Option<TaskList>,
    /// `after`.
    pub after: Option<TaskList>,
}

/// A use of a part of the language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Construct {
    /// Which part.
    pub feature: Feature,
    /// JSON Pointer of the place.
    pub pointer: String,
    /// The place.
    pub span: Span,
}

/// A call of a function of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionUse {
    /// `name:semver`.
    pub function: String,
    /// JSON Pointer of the place.
    pub pointer: String,
    /// The place.
    pub span: Span,
}

/// Parts of the language that can be missing from a build; prints as it is written in a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// `listen`.
    Listen,
    /// `schedule.on`.
    ScheduleOn,
    /// An expression as `schedule.every` or `schedule.after`.
    ScheduleExpression,
    /// `run: container`.
    Container,
    /// `run: script`.
    Script,
    /// `run: shell`.
    Shell,
    /// `call: openapi`.
    OpenApi,
    /// `call: grpc`.
    Grpc,
    /// `call: asyncapi`.
    AsyncApi,
    /// `subscription.foreach` of `call: asyncapi`.
    AsyncApiForeach,
    /// `call: mcp`.
    Mcp,
    /// `call: a2a`.
    A2a,
    /// A call of a function by its URL.
    FunctionUrl,
    /// A call of a function of a declared catalog.
    FunctionCatalog,
    /// `use.extensions`.
    Extension,
    /// `$secrets`, or `use: <secret>` in an authentication.
    Secrets,
    /// `digest` authentication.
    Digest,
    /// `oauth2` authentication.
    OAuth2,
    /// `oidc` authentication.
    Oidc,
    /// `evaluate.mode: loose`.
    LooseMode,
    /// `schema.resource`.
    SchemaResource,
    /// `metadata.millrace.labels`.
    Labels,
    /// `metadata.millrace.priority`.
    Priority,
    /// `metadata.millrace.concurrencyKey`.
    ConcurrencyKey,
}

impl Feature {
    /// True when this build executes it.
    pub const fn is_executed(self) -> bool {
        match self {
            Self::Extension
            | Self::Listen
            | Self::Grpc
            | Self::AsyncApi
            | Self::Mcp
            | Self::A2a
            | Self::FunctionUrl
            | Self::FunctionCatalog
            | Self::LooseMode
            | Self::SchemaResource
            | Self::Container
            | Self::Script
            | Self::Shell => true,
            Self::ScheduleOn
            | Self::ScheduleExpression
            | Self::AsyncApiForeach
            | Self::Labels
            | Self::Priority
            | Self::ConcurrencyKey => false,
            Self::OpenApi | Self::Secrets | Self::Digest | Self::OAuth2 | Self::Oidc => true,
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listen => "`listen`",
            Self::ScheduleOn => "`schedule.on`",
            Self::ScheduleExpression => "an expression in `schedule`",
            Self::Container => "`run: container`",
            Self::Script => "`run: script`",
            Self::Shell => "`run: shell`",
            Self::OpenApi => "`call: openapi`",
            Self::Grpc => "`call: grpc`",
            Self::AsyncApi => "`call: asyncapi`",
            Self::AsyncApiForeach => "`foreach` of an AsyncAPI subscription",
            Self::Mcp => "`call: mcp`",
            Self::A2a => "`call: a2a`",
            Self::FunctionUrl => "a function by URL",
            Self::FunctionCatalog => "a function of another catalog",
            Self::Extension => "`use.extensions`",
            Self::Secrets => "a secret",
            Self::Digest => "`digest` authentication",
            Self::OAuth2 => "`oauth2` authentication",
            Self::Oidc => "`oidc` authentication",
            Self::LooseMode => "`evaluate.mode: loose`",
            Self::SchemaResource => "a schema by `resource`",
            Self::Labels => "`labels`",
            Self::Priority => "`priority`",
            Self::ConcurrencyKey => "`concurrencyKey`",
        })
    }
}
