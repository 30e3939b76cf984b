"""What an allocation method is, and what it may ask for."""

from __future__ import annotations

from typing import Protocol

from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


class Seeder(Protocol):
    """An allocation method: a way to choose genomes without searching.

    It is a function, whose first line of documentation is what ``evo-mpq list seeders`` says.
    """

    def __call__(self, space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
        """The genomes that the method proposes, none of them measured.

        Args:
            space: what may be chosen.
            tables: what is known of its genes; a table is made, and measured where it needs that, when it is first
                asked for.
            budgets: ``(n,)`` bounds on ``tables.cost``, ascending; each is at least the cost of the cheapest genome.

        Returns:
            ``(n, n_genes)`` canonical genomes: for each budget the method's choice, which costs no more.
            Rows may repeat. A method that cannot be applied raises.

        Raises:
            ConfigError: the method needs something that is not there, such as a train split.
        """
