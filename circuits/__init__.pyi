from .attribution.backward import Backward as Backward
from .attribution.edges import attribute as attribute
from .attribution.nodes import attribute_nodes as attribute_nodes
from .attribution.positions import (
    PositionScores as PositionScores,
)
from .attribution.positions import (
    attribute_positions as attribute_positions,
)
from .comparison.alignment import (
    Alignment as Alignment,
)
from .comparison.alignment import (
    align as align,
)
from .comparison.diff import (
    diff as diff,
)
from .comparison.graph_diff import (
    GraphDiff as GraphDiff,
)
from .comparison.similarity import Similarity as Similarity
from .facts.facts import (
    Answers as Answers,
)
from .facts.facts import (
    Fact as Fact,
)
from .facts.facts import (
    FactSet as FactSet,
)
from .facts.facts import (
    default_facts as default_facts,
)
from .facts.facts import (
    load_facts as load_facts,
)
from .facts.questions import (
    Question as Question,
)
from .facts.questions import (
    Questions as Questions,
)
from .facts.questions import (
    read_questions as read_questions,
)
from .facts.questions import (
    tokenize_questions as tokenize_questions,
)
from .facts.tasks import (
    TASKS as TASKS,
)
from .facts.tasks import (
    Task as Task,
)
from .facts.tasks import (
    load_task as load_task,
)
from .facts.tasks import (
    task_facts as task_facts,
)
from .facts.tokenizing import tokenize_facts as tokenize_facts
from .graph.circuit import (
    Circuit as Circuit,
)
from .graph.exports import (
    export as export,
)
from .graph.exports import (
    node_link as node_link,
)
from .graph.exports import (
    read_eap_json as read_eap_json,
)
from .graph.exports import (
    read_parquet as read_parquet,
)
from .graph.exports import (
    write_eap_json as write_eap_json,
)
from .graph.exports import (
    write_graphml as write_graphml,
)
from .graph.exports import (
    write_neuronpedia as write_neuronpedia,
)
from .graph.exports import (
    write_parquet as write_parquet,
)
from .graph.nodes import (
    NodeCircuit as NodeCircuit,
)
from .graph.nodes import (
    NodeScores as NodeScores,
)
from .graph.pruning import (
    prune as prune,
)
from .graph.pruning import (
    random_circuits as random_circuits,
)
from .graph.scores import (
    AttributionGraph as AttributionGraph,
)
from .graph.scores import (
    completeness as completeness,
)
from .graph.shape import (
    GraphShape as GraphShape,
)
from .intervention.exact import (
    exact_edges as exact_edges,
)
from .intervention.exact import (
    exact_nodes as exact_nodes,
)
from .intervention.faithfulness import (
    Faithfulness as Faithfulness,
)
from .intervention.faithfulness import (
    FaithfulnessCurve as FaithfulnessCurve,
)
from .intervention.faithfulness_measure import (
    faithfulness as faithfulness,
)
from .intervention.faithfulness_measure import (
    faithfulness_curve as faithfulness_curve,
)
from .intervention.faithfulness_measure import (
    minimal_circuit as minimal_circuit,
)
from .intervention.node_forward import node_faithfulness as node_faithfulness
from .intervention.transfer import (
    Transfer as Transfer,
)
from .intervention.transfer import (
    transfer as transfer,
)
from .roles.measure import head_roles as head_roles
from .roles.roles import (
    HeadRoles as HeadRoles,
)
from .roles.roles import (
    RoleChange as RoleChange,
)
from .tracking.evolution import (
    Evolution as Evolution,
)
from .tracking.track import (
    evolve as evolve,
)
