"""`meshagent doctor`: looks at all of a host that can be wrong, and says for each problem what to do. Changes nothing, and needs no agent.

What is seen (IO) and what follows from it (pure) are kept apart: seen.py, network.py and proxies.py look; the modules of checks judge.
"""
